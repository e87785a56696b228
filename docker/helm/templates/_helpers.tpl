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

{{/* One server is the Triton of every model; several have names, which the catalogue places models on. */}}
{{- define "appliance.tritonEnv" -}}
{{- $endpoints := dict -}}
{{- range $server := .Values.triton.servers -}}
{{- $set := printf "%s-%s" (include "appliance.name" $) $server.name -}}
{{- range $number := until (int ($server.replicas | default 1)) -}}
{{- $url := printf "%s-%d.%s:8001" $set $number $set -}}
{{- $_ := set $endpoints (printf "%s-%d" $server.name $number) (dict "url" $url) -}}
{{- end -}}
{{- end -}}
{{- if .Values.triton.externalUrl -}}
- name: ORCHESTRATOR_TRITON__URL
  value: {{ .Values.triton.externalUrl | quote }}
{{- else if eq (len $endpoints) 1 -}}
- name: ORCHESTRATOR_TRITON__URL
  value: {{ (first (values $endpoints)).url | quote }}
{{- else if not $endpoints -}}
{{- fail "triton: name a server under `servers`, or the `externalUrl` of one that is there" -}}
{{- end }}
{{- if gt (len $endpoints) 1 }}
- name: ORCHESTRATOR_TRITON__ENDPOINTS
  value: {{ toJson $endpoints | quote }}
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
{{ include "appliance.tritonEnv" . }}
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
