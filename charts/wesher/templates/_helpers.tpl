{{- define "wesher.name" -}}
{{ .Values.nameOverride | default "wesher" }}
{{- end }}
{{- define "wesher.labels" -}}
{{- toYaml (merge (dict "app.kubernetes.io/part-of" "wesher" "app.kubernetes.io/version" .Chart.AppVersion) .Values.commonLabels) }}
{{- end }}
{{- define "wesher.image" -}}
{{- with .Values.image.registry }}{{ . }}/{{ end }}{{ .Values.image.repository }}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}
{{- define "wesher.agentPods" -}}
{{- $pods := pick .Values.agent "privileged" "resources" "priorityClassName" "updateStrategy" "dnsPolicy" "extraArgs" "extraEnv" "podAnnotations" }}
{{- $_ := set $pods "podLabels" (merge (dict) .Values.agent.podLabels .Values.commonLabels) }}
{{- $_ := set $pods "imagePullSecrets" .Values.imagePullSecrets }}
{{- $_ := set $pods "serviceAccountName" (printf "%s-agent" (include "wesher.name" .)) }}
{{- toJson $pods }}
{{- end }}
{{- define "wesher.unprivilegedPod" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.operator.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.operator.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.operator.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- define "wesher.unprivilegedContainer" -}}
image: {{ include "wesher.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
# So that describing the pod shows the line with which a container ended.
terminationMessagePolicy: FallbackToLogsOnError
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
resources: {{- toYaml .Values.operator.resources | nindent 2 }}
{{- end }}
{{- define "wesher.uninstallHook" -}}
helm.sh/hook: pre-delete
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed
{{- end }}
{{- define "wesher.testHook" -}}
helm.sh/hook: test
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
