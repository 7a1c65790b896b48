{{- define "natter.name" -}}
{{- default (printf "%s-natter" .Release.Name) .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{- define "natter.selector" -}}
app.kubernetes.io/name: natter
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "natter.labels" -}}
{{ include "natter.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "natter.image" -}}
{{- with .Values.image -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end }}
{{- end }}

{{- /* What every pod of the chart has: nobody's account, and no way to be more than that. */ -}}
{{- define "natter.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "natter.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "natter.spread" -}}
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- maxSkew: 1
  topologyKey: {{ . }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "natter.selector" $ | nindent 6 }}
{{- end }}
{{- end }}

{{- /* The variables of NATS that gateways and persisters share; .nkey is the service's nkeySecret. */ -}}
{{- define "natter.natsEnv" -}}
{{- $nats := .root.Values.nats -}}
- name: NATTER_NATS__URL
  value: {{ required "nats.url is not set: where NATS is, such as nats://nats.nats.svc:4222" $nats.url | quote }}
- name: NATTER_NATS__SHARDS
  value: {{ $nats.shards | quote }}
- name: NATTER_NATS__REPLICAS
  value: {{ $nats.replicas | quote }}
- name: NATTER_NATS__MAX_BYTES_PER_SHARD
  value: {{ $nats.maxBytesPerShard | quote }}
- name: NATTER_NATS__TLS_REQUIRED
  value: {{ $nats.tlsRequired | quote }}
{{- if $nats.ca.configMap }}
- name: NATTER_NATS__TLS_CA_FILE
  value: /run/natter/ca/{{ $nats.ca.key }}
{{- end }}
{{- if .nkey.name }}
- name: NATTER_NATS__NKEY_SEED_FILE
  value: /run/natter/nkey/{{ .nkey.key }}
{{- end }}
- name: NATTER_TELEMETRY__FORMAT
  value: json
{{- end }}

{{- define "natter.natsMounts" -}}
{{- if .root.Values.nats.ca.configMap }}
- { name: ca, mountPath: /run/natter/ca, readOnly: true }
{{- end }}
{{- if .nkey.name }}
- { name: nkey, mountPath: /run/natter/nkey, readOnly: true }
{{- end }}
{{- end }}

{{- define "natter.natsVolumes" -}}
{{- with .root.Values.nats.ca }}
{{- if .configMap }}
- name: ca
  configMap:
    name: {{ .configMap }}
    items: [{ key: {{ .key | quote }}, path: {{ .key | quote }} }]
{{- end }}
{{- end }}
{{- if .nkey.name }}
{{ include "natter.secretVolume" (dict "name" "nkey" "secret" .nkey) }}
{{- end }}
{{- end }}

{{- define "natter.secretVolume" -}}
- name: {{ .name }}
  secret:
    secretName: {{ .secret.name }}
    defaultMode: 0440
    items: [{ key: {{ .secret.key | quote }}, path: {{ .secret.key | quote }} }]
{{- end }}

{{- /* Variables of values' `env`; those that the chart sets itself may not be there. */ -}}
{{- define "natter.extraEnv" -}}
{{- range $name, $value := .env }}
{{- if contains (printf "- name: %s\n" $name) (printf "%s\n" $.own) }}
{{- fail (printf "%s.env.%s: the chart sets this variable from a value of its own" $.component $name) }}
{{- end }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{- define "natter.check" -}}
{{- if and (gt (int .Values.nats.servers) 0) (gt (int .Values.nats.replicas) (int .Values.nats.servers)) }}
{{- fail (printf "nats.replicas is %v, but nats.servers says that there are %v: a stream cannot have more copies than servers" .Values.nats.replicas .Values.nats.servers) }}
{{- end }}
{{- if and .Values.gateway.autoscaling.enabled (lt (int .Values.gateway.autoscaling.maxReplicas) (int .Values.gateway.autoscaling.minReplicas)) }}
{{- fail "gateway.autoscaling.maxReplicas is less than minReplicas" }}
{{- end }}
{{- with .Values.gateway.tokens }}
{{- if and (ne .algorithm "HS256") (not .jwksUrl) (not .publicKey) }}
{{- fail (printf "gateway.tokens.algorithm is %s, which needs gateway.tokens.publicKey or jwksUrl" .algorithm) }}
{{- end }}
{{- if and (eq .algorithm "HS256") (or .jwksUrl .publicKey) }}
{{- fail "gateway.tokens.algorithm is HS256, which has no public keys: unset publicKey and jwksUrl, or set another algorithm" }}
{{- end }}
{{- if and (ne .algorithm "HS256") (not .issuer) }}
{{- fail (printf "gateway.tokens.issuer is not set: what tokens of %s say as `iss`" .algorithm) }}
{{- end }}
{{- if and .jwksUrl .publicKey }}
{{- fail "only one of gateway.tokens.publicKey and gateway.tokens.jwksUrl can be set" }}
{{- end }}
{{- end }}
{{- end }}
