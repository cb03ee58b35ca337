{{/* A name of at most 63 characters: a longer one is cut and ends with a hash of the whole. */}}
{{- define "spectrain.short" -}}
{{- if gt (len .) 63 -}}
{{ printf "%s-%s" (trunc 54 . | trimSuffix "-") (sha256sum . | trunc 8) }}
{{- else -}}
{{ . }}
{{- end -}}
{{- end }}

{{/* Prefix of every object's name. It leaves room for the hash that a StatefulSet adds to its pods' labels. */}}
{{- define "spectrain.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := .Values.fullnameOverride -}}
{{- if not $full -}}
{{- $full = ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- end -}}
{{- /* A Service's name has no dots, and begins with a letter. */}}
{{- $full = replace "." "-" $full -}}
{{- if regexMatch "^[0-9]" $full -}}
{{- $full = printf "s%s" $full -}}
{{- end -}}
{{- if gt (len $full) 42 -}}
{{- $full = printf "%s-%s" (trunc 33 $full | trimSuffix "-") (sha256sum $full | trunc 8) -}}
{{- end -}}
{{ $full }}
{{- end }}

{{- define "spectrain.workerName" -}}
{{ include "spectrain.short" (printf "%s-worker-%s" (include "spectrain.fullname" .root) .pool.name) }}
{{- end }}

{{/* Labels that never change: for selectors, and for pods, which a new version of the chart alone must not restart. */}}
{{- define "spectrain.selectorLabels" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride | trunc 63 | trimSuffix "-" | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- with .pool }}
spectrain/pool: {{ .name | quote }}
{{- end }}
{{- end }}

{{/* Labels of an object; those in `own` take the places of the chart's. */}}
{{- define "spectrain.labels" -}}
{{- $labels := include "spectrain.selectorLabels" . | fromYaml }}
{{- $_ := set $labels "app.kubernetes.io/version" .root.Chart.AppVersion }}
{{- $_ := set $labels "app.kubernetes.io/managed-by" .root.Release.Service }}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") }}
{{- toYaml (mergeOverwrite $labels (.own | default dict)) }}
{{- end }}

{{/* Labels of a pod: the chart's, which its selectors look for, and the user's `own`, at `where` in the values. */}}
{{- define "spectrain.podLabels" -}}
{{- $labels := include "spectrain.selectorLabels" . | fromYaml }}
{{- range $name, $value := .own }}
{{- if hasKey $labels $name }}
{{- fail (printf "%s.podLabels: %s is the chart's: its selectors look for it" $.where $name) }}
{{- end }}
{{- $_ := set $labels $name $value }}
{{- end }}
{{- toYaml $labels }}
{{- end }}

{{/* registry/repository:tag or registry/repository@digest; an image may name a registry of its own. */}}
{{- define "spectrain.image" -}}
{{- $repository := .image.repository -}}
{{- $registry := .image.registry | default .root.Values.images.registry -}}
{{- with .root.Values.global.imageRegistry | default $registry -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) $repository -}}
{{- end -}}
{{- if .image.digest -}}
{{ $repository }}@{{ .image.digest }}
{{- else -}}
{{ $repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "spectrain.serviceAccountName" -}}
{{- $account := index .root.Values.serviceAccounts .component -}}
{{- if $account.create -}}
{{ $account.name | default (printf "%s-%s" (include "spectrain.fullname" .root) .component) }}
{{- else -}}
{{ $account.name | default "default" }}
{{- end -}}
{{- end }}

{{- define "spectrain.tokensSecret" -}}
{{ .Values.tokens.existingSecret | default (printf "%s-tokens" (include "spectrain.fullname" .)) }}
{{- end }}

{{- define "spectrain.redisSecret" -}}
{{ .Values.redis.existingSecret | default (printf "%s-redis" (include "spectrain.fullname" .)) }}
{{- end }}

{{/* The key of the workers' password; empty: workers have no user of Redis of their own. */}}
{{- define "spectrain.redisWorkerKey" -}}
{{- if .Values.redis.enabled -}}
{{- .Values.redis.workerPasswordKey | default (ternary "redis-worker-password" "" (empty .Values.redis.existingSecret)) -}}
{{- end -}}
{{- end }}

{{- define "spectrain.redisClaim" -}}
{{ .Values.redis.storage.existingClaim | default (printf "%s-redis" (include "spectrain.fullname" .)) }}
{{- end }}

{{- define "spectrain.claim" -}}
{{- if eq .Values.storage.type "existingClaim" -}}
{{ .Values.storage.existingClaim.name }}
{{- else -}}
{{ include "spectrain.fullname" . }}-storage
{{- end -}}
{{- end }}

{{/* "true" if an URL names a host that only the cluster knows: a Service, or a name without a domain. */}}
{{- define "spectrain.inCluster" -}}
{{- $host := (urlParse .).hostname -}}
{{- if and $host (or (regexMatch "\\.(svc|cluster\\.local)$|\\.svc\\." $host) (not (regexMatch "[.:]" $host))) -}}true{{- end -}}
{{- end }}

{{- define "spectrain.apiUrl" -}}
http://{{ include "spectrain.fullname" . }}-api.{{ .Release.Namespace }}.svc:{{ .Values.api.service.port }}
{{- end }}
