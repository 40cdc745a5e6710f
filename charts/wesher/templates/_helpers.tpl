{{- define "wesher.labels" -}}
app.kubernetes.io/part-of: wesher
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}
{{- define "wesher.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
