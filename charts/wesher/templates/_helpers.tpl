{{- define "wesher.name" -}}
{{ .Values.nameOverride | default "wesher" }}
{{- end }}
{{- define "wesher.labels" -}}
{{- toYaml (merge (dict "app.kubernetes.io/part-of" "wesher" "app.kubernetes.io/version" .Chart.AppVersion) .Values.commonLabels) }}
{{- end }}
{{- /*
Of the two names that a build gives, users copy either: the operator's is the one that a Deployment shows.
*/ -}}
{{- define "wesher.repository" -}}
{{- $repository := .Values.image.repository }}
{{- if and (not $repository) (.Values.global.imageRegistry | default .Values.image.registry) }}
{{- $repository = "wesher" }}
{{- end }}
{{- $repository = required "set image.repository to where you pushed wesher's image, such as registry.example.com/wesher: no public registry has it" $repository }}
{{- if (.Values.operator.image | default dict).repository }}{{ $repository }}{{ else }}{{ trimSuffix "-operator" $repository }}{{ end }}
{{- end }}
{{- define "wesher.image" -}}
{{- with .Values.global.imageRegistry | default .Values.image.registry }}{{ . }}/{{ end }}{{ include "wesher.repository" . }}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}
{{- define "wesher.imagePullSecrets" -}}
{{- $secrets := list }}
{{- range concat (.Values.global.imagePullSecrets | default list) .Values.imagePullSecrets }}
{{- $secrets = append $secrets (kindIs "string" . | ternary (dict "name" .) .) }}
{{- end }}
{{- toJson ($secrets | uniq) }}
{{- end }}
{{- define "wesher.operatorImage" -}}
{{- $image := .Values.operator.image | default dict }}
{{- with .Values.global.imageRegistry | default .Values.image.registry }}{{ . }}/{{ end }}{{ $image.repository | default (printf "%s-operator" (include "wesher.repository" .)) }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}
{{- define "wesher.agentPods" -}}
{{- $pods := pick .Values.agent "privileged" "resources" "priorityClassName" "updateStrategy" "dnsPolicy" "apiServer" "logFormat" "extraArgs" "extraEnv" "podAnnotations" }}
{{- $_ := set $pods "podLabels" (merge (dict) .Values.agent.podLabels .Values.commonLabels) }}
{{- $_ := set $pods "imagePullSecrets" (include "wesher.imagePullSecrets" . | fromJsonArray) }}
{{- $_ := set $pods "serviceAccountName" (printf "%s-agent" (include "wesher.name" .)) }}
{{- toJson $pods }}
{{- end }}
{{- define "wesher.nodeReadiness" -}}
{{- $asks := dict }}
{{- if .Values.mesh.create }}
{{- $asks = .Values.mesh.nodeReadiness | default dict }}
{{- end }}
{{- toJson $asks }}
{{- end }}
{{- /*
The operator removes the startup taint, so it must be able to start on Nodes that have it.
*/ -}}
{{- define "wesher.operatorTolerations" -}}
{{- $tolerations := .Values.operator.tolerations | default list }}
{{- with (include "wesher.nodeReadiness" . | fromJson).taint }}
{{- $key := index (splitList "=" (index (splitList ":" .) 0)) 0 }}
{{- $tolerations = append $tolerations (dict "key" $key "operator" "Exists" "effect" (splitList ":" . | last)) }}
{{- end }}
{{- toJson $tolerations }}
{{- end }}
{{- define "wesher.unprivilegedPod" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- with include "wesher.imagePullSecrets" . | fromJsonArray }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.operator.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "wesher.operatorTolerations" . | fromJsonArray }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.operator.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- define "wesher.unprivilegedContainer" -}}
image: {{ include "wesher.operatorImage" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
# kubectl describe pod then shows the last log line of a container that exited.
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
{{- /*
Helm leaves an earlier release's definitions as they are, and the operator mends them only after Helm has written
the mesh. With a field that they lack, Helm 4 fails with an unclear error, and Helm 3 drops the field silently.
*/ -}}
{{- define "wesher.refuseUnknown" -}}
{{- range $name, $value := .value }}
{{- $path := printf "%s.%s" $.path $name }}
{{- if not (hasKey $.schema.properties $name) }}
{{- fail (printf "%s: the custom resource definitions in this cluster do not have this field yet: run kubectl apply --server-side --force-conflicts -f crds (in this chart), then try again" $path) }}
{{- end }}
{{- $schema := get $.schema.properties $name }}
{{- if and (kindIs "map" $value) (hasKey $schema "properties") }}
{{- include "wesher.refuseUnknown" (dict "path" $path "value" $value "schema" $schema) }}
{{- end }}
{{- end }}
{{- end }}
