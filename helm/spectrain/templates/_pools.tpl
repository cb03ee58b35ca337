{{/*
The pools as YAML, with defaults for the values that a pool does not set. A value that a pool sets
counts even if it is 0, false or empty; maps of settings are merged key by key.
*/}}
{{- define "spectrain.pools" -}}
{{- $defaults := .Values.workers.defaults -}}
{{- $seen := dict -}}
{{- $pools := list -}}
{{- range $given := .Values.workers.pools -}}
{{- if hasKey $seen $given.name -}}
{{- fail (printf "workers.pools: two pools have the name %q" $given.name) -}}
{{- end -}}
{{- $_ := set $seen $given.name true -}}
{{- $pool := dict "name" $given.name -}}
{{- range $key, $default := $defaults -}}
{{- $value := $default -}}
{{- if hasKey $given $key -}}
{{- $value = index $given $key -}}
{{- if has $key (list "scratch" "image" "podDisruptionBudget" "autoscaling") -}}
{{- $value = dict -}}
{{- range $inner, $innerDefault := $default -}}
{{- $own := index $given $key -}}
{{- $_ := set $value $inner (ternary (index $own $inner) $innerDefault (hasKey $own $inner)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $_ := set $pool $key $value -}}
{{- end -}}
{{- with $pool.autoscaling -}}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) -}}
{{- fail (printf "workers.pools: %q: autoscaling.minReplicas is more than maxReplicas" $given.name) -}}
{{- end -}}
{{- end -}}
{{- $pools = append $pools $pool -}}
{{- end -}}
{{ dict "pools" $pools | toYaml }}
{{- end }}

{{/* "true" if a pool's workers set the deletion cost of their pods. */}}
{{- define "spectrain.tellsCost" -}}
{{- if and .root.Values.workers.deletionCost.enabled .pool.autoscaling.enabled -}}true{{- end -}}
{{- end }}

{{/* "true" if any pool's workers do. */}}
{{- define "spectrain.anyTellsCost" -}}
{{- $root := . -}}
{{- range (include "spectrain.pools" . | fromYaml).pools -}}
{{- include "spectrain.tellsCost" (dict "root" $root "pool" .) -}}
{{- end -}}
{{- end }}

{{/* The maximum number of workers of all pools. */}}
{{- define "spectrain.mostWorkers" -}}
{{- $most := 0 -}}
{{- range (include "spectrain.pools" . | fromYaml).pools -}}
{{- $most = add $most (ternary .autoscaling.maxReplicas .replicas .autoscaling.enabled) -}}
{{- end -}}
{{ $most }}
{{- end }}

{{/* "true" if pods may request credentials from a cloud's metadata service: S3 without keys. */}}
{{- define "spectrain.asksForCredentials" -}}
{{- if and (eq .Values.storage.type "s3") (not .Values.storage.s3.existingSecret) -}}true{{- end -}}
{{- end }}

{{/* The port of an object store: from its URL, else the default of the URL's scheme. */}}
{{- define "spectrain.storagePort" -}}
{{- $url := .Values.storage.s3.endpointUrl -}}
{{- $port := regexFind ":[0-9]+(/.*)?$" $url | regexFind "[0-9]+" -}}
{{ $port | default (ternary "80" "443" (hasPrefix "http://" $url)) }}
{{- end }}

{{/* Fails with a message for values that must not be rendered. */}}
{{- define "spectrain.checks" -}}
{{- with .Values -}}
{{- if not (or .redis.enabled .redis.external.url .redis.external.existingSecret) -}}
{{- fail "redis: no Redis is configured: set redis.enabled, redis.external.url or redis.external.existingSecret" -}}
{{- end -}}
{{- if and .redis.enabled (or .redis.external.url .redis.external.existingSecret) -}}
{{- fail "redis: set redis.enabled to false to use redis.external" -}}
{{- end -}}
{{- if and .redis.external.url .redis.external.existingSecret -}}
{{- fail "redis.external: set url or existingSecret, not both" -}}
{{- end -}}
{{- if and (eq .storage.type "s3") (not .storage.s3.bucket) -}}
{{- fail "storage.s3.bucket: name the bucket, which must exist" -}}
{{- end -}}
{{- if and (eq .storage.type "existingClaim") (not .storage.existingClaim.name) -}}
{{- fail "storage.existingClaim.name: name the claim" -}}
{{- end -}}
{{- if and .ingress.enabled (not .ingress.hosts) -}}
{{- fail "ingress.hosts: name at least one host" -}}
{{- end -}}
{{- if and .httpRoute.enabled (not .httpRoute.parentRefs) -}}
{{- fail "httpRoute.parentRefs: name the gateway" -}}
{{- end -}}
{{- $names := list -}}
{{- range .workers.pools -}}{{- $names = append $names .name -}}{{- end -}}
{{- if and .test.pool (not (has .test.pool $names)) -}}
{{- fail (printf "test.pool: there is no pool %q" .test.pool) -}}
{{- end -}}
{{- end -}}
{{- end }}
