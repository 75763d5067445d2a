{{- define "overspill.fullname" -}}
{{- if contains "overspill" .Release.Name }}{{ .Release.Name | trunc 53 | trimSuffix "-" }}{{ else }}{{ printf "%s-overspill" .Release.Name | trunc 53 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "overspill.selector" -}}
app.kubernetes.io/name: overspill
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "overspill.labels" -}}
{{ include "overspill.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "overspill.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "overspill.fullname" .) }}{{ else }}{{ required "serviceAccount.name is needed where serviceAccount.create is false" .Values.serviceAccount.name }}{{ end }}
{{- end }}

{{- define "overspill.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}{{ else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "overspill.historyUrl" -}}
{{- dig "history" "url" "sqlite+aiosqlite:////var/lib/overspill/overspill.db" .Values.federation.spec }}
{{- end }}

{{- define "overspill.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "overspill.policies" -}}
{{- if .Values.policiesFrom.git.repository }}/policies/current/{{ .Values.policiesFrom.git.path }}{{ else }}/policies{{ end }}
{{- end }}

{{- define "overspill.gitSync" -}}
image: {{ .Values.policiesFrom.git.image }}
securityContext:
  {{- include "overspill.restricted" . | nindent 2 }}
env:
  - {name: GITSYNC_REPO, value: {{ .Values.policiesFrom.git.repository | quote }}}
  - {name: GITSYNC_REF, value: {{ .Values.policiesFrom.git.ref | quote }}}
  - {name: GITSYNC_ROOT, value: /policies}
  - {name: GITSYNC_LINK, value: current}
  - {name: GITSYNC_PERIOD, value: {{ .Values.policiesFrom.git.period | quote }}}
  {{- if .Values.policiesFrom.git.secret }}
  - {name: GITSYNC_USERNAME, value: {{ .Values.policiesFrom.git.username | quote }}} # it refuses a password without one
  - name: GITSYNC_PASSWORD
    valueFrom:
      secretKeyRef: {name: {{ .Values.policiesFrom.git.secret }}, key: token}
  {{- end }}
resources:
  requests: {cpu: 10m, memory: 32Mi}
  limits: {memory: 256Mi}
volumeMounts:
  - {name: policies, mountPath: /policies}
  - {name: tmp, mountPath: /tmp}
{{- end }}

{{- /* The roles of one file of deploy/rbac, under this release's names. What they allow is told there alone; with `kinds`,
only for these kinds of objects. */}}
{{- define "overspill.roles" -}}
{{- $top := .top }}
{{- $kinds := .kinds }}
{{- $name := include "overspill.fullname" $top }}
{{- range $text := splitList "\n---\n" ($top.Files.Get (printf "files/rbac/%s.yaml" .file)) }}
{{- $one := fromYaml $text }}
{{- if has $one.kind (list "ClusterRole" "ClusterRoleBinding" "Role" "RoleBinding") }}
{{- $_ := set $one.metadata "name" (replace "overspill" $name $one.metadata.name) }}
{{- $_ := set $one.metadata "labels" (fromYaml (include "overspill.labels" $top)) }}
{{- if $kinds }}
{{- range $rule := $one.rules }}
{{- $kept := list }}
{{- range $kind := $kinds }}
{{- $kept = append $kept (printf "%ss" (lower $kind)) }}
{{- end }}
{{- $_ := set $rule "resources" $kept }}
{{- end }}
{{- end }}
{{- if $one.roleRef }}
{{- $_ := set $one.roleRef "name" (replace "overspill" $name $one.roleRef.name) }}
{{- $account := dict "kind" "ServiceAccount" "name" (include "overspill.serviceAccount" $top) "namespace" $top.Release.Namespace }}
{{- $_ := set $one "subjects" (list $account) }}
{{- end }}
---
{{ toYaml $one | replace "overspill-example" (printf "overspill-%s" $top.Values.federation.name | trunc 63) }}
{{- end }}
{{- end }}
{{- end }}
