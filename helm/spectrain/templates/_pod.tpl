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

{{/*
Scheduling of a pod: `from` is a map with nodeSelector, tolerations, …; `labels` are the context of
the pod's labels. A term or constraint without a selector would match no pod: it gets that of these.
*/}}
{{- define "spectrain.placement" -}}
{{- $selector := dict "matchLabels" (include "spectrain.selectorLabels" .labels | fromYaml) -}}
{{- $affinity := deepCopy (.from.affinity | default dict) -}}
{{- range $kind := list "podAffinity" "podAntiAffinity" -}}
{{- $terms := index $affinity $kind | default dict -}}
{{- range $terms.requiredDuringSchedulingIgnoredDuringExecution -}}
{{- $_ := set . "labelSelector" (.labelSelector | default $selector) -}}
{{- end -}}
{{- range $terms.preferredDuringSchedulingIgnoredDuringExecution -}}
{{- $_ := set .podAffinityTerm "labelSelector" (.podAffinityTerm.labelSelector | default $selector) -}}
{{- end -}}
{{- end -}}
{{- $constraints := list -}}
{{- range .from.topologySpreadConstraints -}}
{{- $constraints = append $constraints (merge (dict "labelSelector" (.labelSelector | default $selector)) .) -}}
{{- end -}}
{{- with .from }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $constraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/*
The environment of a container: `chart` is the chart's as YAML, `extra` the user's, `where` the place
of that in the values. The user's variable takes the place of the chart's of the same name.
*/}}
{{- define "spectrain.env" -}}
{{- $where := .where -}}
{{- $own := dict -}}
{{- range .extra -}}
{{- if hasKey $own .name -}}
{{- fail (printf "%s.extraEnv: %s is there twice" $where .name) -}}
{{- end -}}
{{- $_ := set $own .name . -}}
{{- end -}}
{{- $env := list -}}
{{- $names := list -}}
{{- range .chart | fromYamlArray -}}
{{- $env = append $env (index $own .name | default .) -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- range .extra -}}
{{- if not (has .name $names) -}}{{- $env = append $env . -}}{{- end -}}
{{- end -}}
{{ toYaml $env }}
{{- end }}

{{/*
A list of volumes or mounts: `chart` is the chart's as YAML, `own` the user's. One of theirs takes the
place of the chart's with the same `key`.
*/}}
{{- define "spectrain.merged" -}}
{{- $key := .key -}}
{{- $own := dict -}}
{{- range .own -}}{{- $_ := set $own (index . $key | trimSuffix "/") . -}}{{- end -}}
{{- $all := list -}}
{{- range .chart | fromYamlArray -}}
{{- if not (hasKey $own (index . $key)) -}}{{- $all = append $all . -}}{{- end -}}
{{- end -}}
{{ toYaml (concat $all (.own | default list)) }}
{{- end }}

{{/* Fails with a message if two containers of a pod have the same name; `where` is their place in the values. */}}
{{- define "spectrain.checkContainers" -}}
{{- $names := list .main "certificates" -}}
{{- $where := .where -}}
{{- range concat (.from.initContainers | default list) (.from.sidecars | default list) -}}
{{- if has .name $names -}}
{{- fail (printf "%s: initContainers and sidecars: a container of this pod has the name %q already" $where .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- end }}

{{/* "true" if pods trust an authority of the user's own. */}}
{{- define "spectrain.trusts" -}}
{{- with .Values.global.caBundle -}}{{- if or .configMap .secret -}}true{{- end -}}{{- end -}}
{{- end }}

{{/*
The containers that run before the main one: that which adds the user's authority to the public ones,
and the user's own. `resources` are the main container's, which a quota allows.
*/}}
{{- define "spectrain.initContainers" -}}
{{- if or .own (include "spectrain.trusts" .root) }}
initContainers:
  {{- if include "spectrain.trusts" .root }}
  - name: certificates
    image: {{ .image | quote }}
    imagePullPolicy: {{ .root.Values.images.pullPolicy }}
    command: [sh, -c, "cat /etc/ssl/certs/ca-certificates.crt /etc/spectrain/authority/ca.crt > /etc/spectrain/trust/ca.crt"]
    resources:
      {{- toYaml .resources | nindent 6 }}
    securityContext:
      {{- include "spectrain.containerSecurity" .root | nindent 6 }}
    volumeMounts:
      - name: authority
        mountPath: /etc/spectrain/authority
        readOnly: true
      - name: trust
        mountPath: /etc/spectrain/trust
  {{- end }}
  {{- with .own }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* The credentials for the Kubernetes API, for the pods that call it. */}}
{{- define "spectrain.kubernetesApiVolume" -}}
- name: kubernetes-api
  projected:
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3600}
      - configMap:
          name: kube-root-ca.crt
          items: [{key: ca.crt, path: ca.crt}]
{{- end }}

{{/* An environment variable from a Secret. */}}
{{- define "spectrain.secretEnv" -}}
- name: {{ .env | quote }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret | quote }}
      key: {{ .key | quote }}
{{- end }}

{{/* The address of Redis; `component` is who asks. */}}
{{- define "spectrain.redisEnv" -}}
{{- $redis := .root.Values.redis }}
{{- $own := ternary (include "spectrain.redisWorkerKey" .root) "" (eq .component "worker") }}
{{- if $redis.enabled }}
{{ include "spectrain.secretEnv" (dict "env" "SPECTRAIN_REDIS_PASSWORD" "secret" (include "spectrain.redisSecret" .root) "key" ($own | default $redis.passwordKey)) }}
- name: SPECTRAIN_REDIS_URL
  value: redis://{{ if $own }}spectrain-worker{{ end }}:$(SPECTRAIN_REDIS_PASSWORD)@{{ include "spectrain.fullname" .root }}-redis:6379/0
{{- else if $redis.external.existingSecret }}
{{- $key := ternary ($redis.external.workerUrlKey | default $redis.external.urlKey) $redis.external.urlKey (eq .component "worker") }}
{{ include "spectrain.secretEnv" (dict "env" "SPECTRAIN_REDIS_URL" "secret" $redis.external.existingSecret "key" $key) }}
{{- else }}
- name: SPECTRAIN_REDIS_URL
  value: {{ $redis.external.url | quote }}
{{- end }}
{{- end }}

{{/*
Variables of both the API and the workers. Names that begin with SPECTRAIN_ or AWS_ are hidden from
jobs; the password's name therefore begins with one of them.
*/}}
{{- define "spectrain.commonEnv" -}}
{{- with .Values.settings }}
- name: SPECTRAIN_REDIS_PREFIX
  value: {{ .redisPrefix | quote }}
- name: SPECTRAIN_LEASE_SECONDS
  value: {{ .leaseSeconds | quote }}
- name: SPECTRAIN_AGING_SECONDS
  value: {{ .agingSeconds | quote }}
- name: SPECTRAIN_EVICTION_MIN_SECONDS
  value: {{ .evictionMinSeconds | quote }}
- name: SPECTRAIN_UMASK
  value: {{ .umask | quote }}
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
{{- else if include "spectrain.trusts" $ }}
- name: AWS_CA_BUNDLE
  value: /etc/spectrain/trust/ca.crt
{{- end }}
{{- end }}
{{- end }}
{{- if include "spectrain.trusts" . }}
# Python, httpx, uv and curl read the first, pip and requests the second.
- name: SSL_CERT_FILE
  value: /etc/spectrain/trust/ca.crt
- name: REQUESTS_CA_BUNDLE
  value: /etc/spectrain/trust/ca.crt
{{- end }}
{{- $proxy := .Values.global.proxy }}
{{- if or $proxy.http $proxy.https }}
{{- $store := "" }}
{{- if include "spectrain.inCluster" .Values.storage.s3.endpointUrl }}
{{- $store = (urlParse .Values.storage.s3.endpointUrl).hostname }}
{{- end }}
{{- $direct := list "localhost" "127.0.0.1" "::1" "169.254.169.254" "169.254.170.23" ".svc" ".cluster.local" $store $proxy.noProxy | compact | join "," }}
{{- range $name, $value := dict "HTTP_PROXY" $proxy.http "HTTPS_PROXY" $proxy.https "NO_PROXY" $direct }}
{{- if $value }}
{{- /* curl reads the small letters only. */}}
{{- range list $name (lower $name) }}
- name: {{ . }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
# The root file system is read-only: libraries keep their caches here.
- name: HOME
  value: /tmp
{{- end }}

{{/* Volumes of the API and the workers: the runs, and the certificates of the user's own authority. */}}
{{- define "spectrain.volumes" -}}
{{- if include "spectrain.trusts" . }}
{{- with .Values.global.caBundle }}
- name: authority
  {{- if .configMap }}
  configMap:
    name: {{ .configMap | quote }}
  {{- else }}
  secret:
    secretName: {{ .secret | quote }}
  {{- end }}
    items: [{key: {{ .key | quote }}, path: ca.crt}]
- name: trust
  emptyDir: {sizeLimit: 4Mi}
{{- end }}
{{- end }}
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

{{- define "spectrain.volumeMounts" -}}
{{- if include "spectrain.trusts" . }}
- name: trust
  mountPath: /etc/spectrain/trust
  readOnly: true
{{- end }}
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
