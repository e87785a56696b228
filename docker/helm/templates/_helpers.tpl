{{- define "appliance.name" -}}
{{- printf "%s" .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "appliance.labels" -}}
app.kubernetes.io/name: operayde-appliance
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "appliance.selector" -}}
app.kubernetes.io/name: operayde-appliance
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "appliance.orchestratorImage" -}}
{{- with .Values.orchestrator.image -}}
{{ .repository }}:{{ .tag | default (printf "%s-cpu" $.Chart.AppVersion) }}
{{- end -}}
{{- end -}}

{{- define "appliance.tritonImage" -}}
{{- with .Values.triton.image -}}
{{ .repository }}:{{ .tag | default (printf "%s-gpu" $.Chart.AppVersion) }}
{{- end -}}
{{- end -}}

{{- define "appliance.tritonUrl" -}}
{{- if .Values.triton.externalUrl -}}
{{ .Values.triton.externalUrl }}
{{- else if .Values.triton.servers -}}
{{ include "appliance.name" . }}-{{ (first .Values.triton.servers).name }}:8001
{{- else -}}
{{- fail "triton: name a server under `servers`, or the `externalUrl` of one that is there" -}}
{{- end -}}
{{- end -}}

{{- define "appliance.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "appliance.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "appliance.storeEnv" -}}
- name: ORCHESTRATOR_STORE__URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.existingSecret }}
      key: store-url
- name: ORCHESTRATOR_REDIS__URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.existingSecret }}
      key: redis-url
- name: ORCHESTRATOR_SECURITY__PEPPER_FILE
  value: /run/secrets/appliance/pepper
- name: ORCHESTRATOR_BOOTSTRAP__ADMIN_KEY_FILE
  value: /run/secrets/appliance/admin-key
- name: ORCHESTRATOR_TRITON__MODE
  value: remote
- name: ORCHESTRATOR_TRITON__URL
  value: {{ include "appliance.tritonUrl" . | quote }}
{{- end -}}

{{- define "appliance.secretVolume" -}}
- name: secrets
  secret:
    secretName: {{ .Values.existingSecret }}
    items:
      - key: pepper
        path: pepper
      - key: admin-key
        path: admin-key
{{- end -}}
