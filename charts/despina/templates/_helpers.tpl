{{- define "despina.name" -}}
{{- if contains "despina" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-despina" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "despina.selector" -}}
app.kubernetes.io/name: despina
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "despina.labels" -}}
{{ include "despina.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "despina.namespaces" -}}
{{- .Values.watchNamespaces | default (list .Release.Namespace) | toJson }}
{{- end }}

{{- /* What pods serve at /metrics is a tenant's word: so many series of one are taken, and none that is the operator's. */}}
{{- define "despina.samples" -}}
20000
{{- end }}

{{- define "despina.notTheOperators" -}}
- {sourceLabels: [__name__], action: drop, regex: despina_(program|rollout|gate|reconcile|queue_depth|api_writes|writes).*}
{{- end }}

{{- define "despina.dashboard" -}}
{{ include "despina.name" . }}-dashboard
{{- end }}

{{- define "despina.dashboard.selector" -}}
app.kubernetes.io/name: despina-dashboard
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "despina.dashboard.labels" -}}
{{ include "despina.dashboard.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}
