{{/* Security context of a pod with our images; with the container's it meets Pod Security `restricted`. */}}
{{- define "spectrain.podSecurity" -}}
runAsNonRoot: true
{{- with .Values.security.runAsUser }}
runAsUser: {{ int . }}
runAsGroup: {{ int . }}
{{- end }}
{{- with .Values.security.fsGroup }}
fsGroup: {{ int . }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "spectrain.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "spectrain.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Scheduling of a pod; the context is a map with nodeSelector, tolerations, … */}}
{{- define "spectrain.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- end }}

{{/* An environment variable from a Secret. */}}
{{- define "spectrain.secretEnv" -}}
- name: {{ .env | quote }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret | quote }}
      key: {{ .key | quote }}
{{- end }}

{{/*
Variables of both the API and the workers. Names that begin with SPECTRAIN_ or AWS_ are hidden from
jobs; the password's name therefore begins with one of them.
*/}}
{{- define "spectrain.commonEnv" -}}
{{- $redis := .Values.redis }}
{{- if $redis.enabled }}
{{ include "spectrain.secretEnv" (dict "env" "SPECTRAIN_REDIS_PASSWORD" "secret" (include "spectrain.redisSecret" .) "key" $redis.passwordKey) }}
- name: SPECTRAIN_REDIS_URL
  value: redis://:$(SPECTRAIN_REDIS_PASSWORD)@{{ include "spectrain.fullname" . }}-redis:6379/0
{{- else if $redis.external.existingSecret }}
{{ include "spectrain.secretEnv" (dict "env" "SPECTRAIN_REDIS_URL" "secret" $redis.external.existingSecret "key" $redis.external.urlKey) }}
{{- else }}
- name: SPECTRAIN_REDIS_URL
  value: {{ $redis.external.url | quote }}
{{- end }}
{{- with .Values.settings }}
- name: SPECTRAIN_REDIS_PREFIX
  value: {{ .redisPrefix | quote }}
- name: SPECTRAIN_LEASE_SECONDS
  value: {{ .leaseSeconds | quote }}
- name: SPECTRAIN_AGING_SECONDS
  value: {{ .agingSeconds | quote }}
- name: SPECTRAIN_EVICTION_MIN_SECONDS
  value: {{ .evictionMinSeconds | quote }}
{{- end }}
{{- if ne .Values.storage.type "s3" }}
- name: SPECTRAIN_STORAGE_URL
  value: file:///experiments
{{- else }}
{{- with .Values.storage.s3 }}
- name: SPECTRAIN_STORAGE_URL
  value: {{ printf "s3://%s/%s" .bucket .prefix | trimSuffix "/" | quote }}
{{- with .endpointUrl }}
- name: SPECTRAIN_S3_ENDPOINT_URL
  value: {{ . | quote }}
{{- end }}
{{- with .region }}
- name: AWS_REGION
  value: {{ . | quote }}
{{- end }}
{{- if .existingSecret }}
{{ include "spectrain.secretEnv" (dict "env" "AWS_ACCESS_KEY_ID" "secret" .existingSecret "key" .accessKeyIdKey) }}
{{ include "spectrain.secretEnv" (dict "env" "AWS_SECRET_ACCESS_KEY" "secret" .existingSecret "key" .secretAccessKeyKey) }}
{{- if .sessionTokenKey }}
{{ include "spectrain.secretEnv" (dict "env" "AWS_SESSION_TOKEN" "secret" .existingSecret "key" .sessionTokenKey) }}
{{- end }}
{{- end }}
{{- if .caBundle.configMap }}
- name: AWS_CA_BUNDLE
  value: /etc/spectrain/ca/{{ .caBundle.key }}
{{- end }}
{{- end }}
{{- end }}
# The root file system is read-only: libraries keep their caches here.
- name: HOME
  value: /tmp
{{- end }}

{{- define "spectrain.storageVolumes" -}}
{{- if ne .Values.storage.type "s3" }}
- name: storage
  persistentVolumeClaim:
    claimName: {{ include "spectrain.claim" . | quote }}
{{- else if .Values.storage.s3.caBundle.configMap }}
- name: storage-ca
  configMap:
    name: {{ .Values.storage.s3.caBundle.configMap | quote }}
{{- end }}
{{- end }}

{{- define "spectrain.storageMounts" -}}
{{- if ne .Values.storage.type "s3" }}
- name: storage
  mountPath: /experiments
  {{- if eq .Values.storage.type "existingClaim" }}
  {{- with .Values.storage.existingClaim.subPath }}
  subPath: {{ . | quote }}
  {{- end }}
  {{- end }}
{{- else if .Values.storage.s3.caBundle.configMap }}
- name: storage-ca
  mountPath: /etc/spectrain/ca
  readOnly: true
{{- end }}
{{- end }}
