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
{{- range $kind, $amounts := $pool.resources -}}
{{- range $name, $_ := $amounts -}}
{{- if or (eq $name $pool.gpuResource) (regexMatch "^(nvidia\\.com/(gpu|mig-)|amd\\.com/gpu)" $name) -}}
{{- fail (printf "workers.pools: %q: resources.%s: no job would use the %s: set gpus and gpuResource instead" $given.name $kind $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $pool.gpus (not $pool.gpuResource) (not $pool.resourceClaims) -}}
{{- fail (printf "workers.pools: %q: set gpuResource or resourceClaims: nothing gives the workers their GPUs" $given.name) -}}
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

{{/* A quantity, such as 50Gi, in bytes. */}}
{{- define "spectrain.bytes" -}}
{{- $units := dict "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 "Ei" 1152921504606846976 -}}
{{- if regexMatch "[eE][0-9]+$" . -}}
{{ float64 . | ceil | int64 }}
{{- else -}}
{{ mulf (regexFind "^[0-9.]+" . | float64) (index $units (regexFind "[A-Za-z]+$" .) | default 1) | ceil | int64 }}
{{- end -}}
{{- end }}

{{/*
The resources of a pool's container without its GPUs: with the scratch disk and /tmp as a request of
the node's disk, or the scheduler would place more of them on a node than it has room for.
*/}}
{{- define "spectrain.poolResources" -}}
{{- $disk := include "spectrain.bytes" .scratch.tmpSizeLimit | int64 -}}
{{- if not .scratch.storageClassName -}}
{{- $disk = add $disk (include "spectrain.bytes" .scratch.sizeLimit | int64) -}}
{{- end -}}
{{- $limits := .resources.limits | default dict -}}
{{- /* Without a request that of a limit counts; more than the limit is refused. */}}
{{- $requests := dict -}}
{{- if not (hasKey $limits "ephemeral-storage") -}}
{{- $_ := set $requests "ephemeral-storage" (printf "%dMi" (divf $disk 1048576 | ceil | int64)) -}}
{{- end -}}
{{ toYaml (dict "limits" $limits "requests" (mergeOverwrite $requests (.resources.requests | default dict))) }}
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
{{- if and .global.caBundle.configMap .global.caBundle.secret -}}
{{- fail "global.caBundle: set configMap or secret, not both" -}}
{{- end -}}
{{- if and (include "spectrain.anyTellsCost" $) (not .serviceAccounts.worker.create) (has .serviceAccounts.worker.name (list "" "default")) -}}
{{- fail "serviceAccounts.worker.name: name an account of the workers' own: they may patch pods, and every pod of the namespace would be allowed to with the account default" -}}
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

{{/* The environment of a pool's workers. */}}
{{- define "spectrain.workerEnv" -}}
{{ include "spectrain.redisEnv" (dict "root" .root "component" "worker") }}
{{ include "spectrain.commonEnv" .root }}
- name: SPECTRAIN_POOL
  value: {{ .pool.name | quote }}
- name: SPECTRAIN_DEVICE
  value: {{ ternary "cuda" "cpu" (gt (int .pool.gpus) 0) }}
- name: SPECTRAIN_GRACE_SECONDS
  value: {{ .pool.graceSeconds | quote }}
- name: SPECTRAIN_SPOT
  value: {{ ternary .pool.cloud "off" .pool.spot | quote }}
- name: SPECTRAIN_SCRATCH_DIR
  value: /scratch
- name: SPECTRAIN_WARM_START
  value: {{ .pool.warmStart | quote }}
{{- with .pool.runBytes }}
- name: SPECTRAIN_RUN_BYTES
  value: {{ include "spectrain.bytes" . | quote }}
{{- end }}
{{- with .pool.jobEnv }}
- name: SPECTRAIN_JOB_ENV
  value: {{ join "," . | quote }}
{{- end }}
{{- if include "spectrain.tellsCost" . }}
# With these the worker keeps its pod's deletion cost up to date.
- name: POD_NAME
  valueFrom:
    fieldRef: {fieldPath: metadata.name}
- name: POD_NAMESPACE
  valueFrom:
    fieldRef: {fieldPath: metadata.namespace}
{{- end }}
{{- range $secret, $from := .root.Values.workers.secrets }}
{{ include "spectrain.secretEnv" (dict "env" (printf "SPECTRAIN_SECRET_%s" $secret) "secret" $from.secret "key" $from.key) }}
{{- end }}
{{- end }}
