{{- define "ebb.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ebb.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* The file for --config. Paths and address win over what settings may say of them. */}}
{{- define "ebb.config" -}}
{{- $fixed := dict "data" .Values.paths.data "memoryDir" .Values.paths.memory -}}
{{- $_ := set $fixed "socket" (printf "%s/ebb.sock" .Values.paths.socket) -}}
{{- $_ := set $fixed "listen" (printf "%s:%d" .Values.host (int .Values.port)) -}}
{{- if .Values.tlsSecret -}}
{{- $_ := set $fixed "tlsCert" "/etc/ebb-tls/tls.crt" -}}
{{- $_ := set $fixed "tlsKey" "/etc/ebb-tls/tls.key" -}}
{{- end -}}
{{- merge $fixed .Values.settings | toPrettyJson -}}
{{- end }}
