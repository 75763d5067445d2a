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

{{- /* Of the federation file: a URL, or the file with it. */}}
{{- define "overspill.history" -}}
{{- if .Values.history.secret }}
{{- if dig "history" "passwordFile" "" .Values.federation.spec }}
{{- fail "history.secret holds the whole URL: leave federation.spec.history.passwordFile out" }}
{{- end }}
urlFile: history/url
{{- else }}
{{- toYaml (mergeOverwrite (dict "url" "sqlite+aiosqlite:////var/lib/overspill/overspill.db") (.Values.federation.spec.history | default dict)) }}
{{- end }}
{{- end }}

{{- define "overspill.sqlite" -}}
{{- if hasPrefix "sqlite" (dig "url" "" (fromYaml (include "overspill.history" .))) }}yes{{ end }}
{{- end }}

{{- define "overspill.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- /* Of the Lease and the switches. */}}
{{- define "overspill.lease" -}}
{{- printf "overspill-%s" .Values.federation.name | trunc 63 }}
{{- end }}

{{- /* Whether switches are thrown over HTTP. */}}
{{- define "overspill.switches" -}}
{{- if and (eq .Values.mode "active") (or .Values.listen.users .Values.listen.token.secret) }}yes{{ end }}
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

{{- /* Annotations of the service account. */}}
{{- define "overspill.identity" -}}
{{- $found := dict }}
{{- with .Values.cloudIdentity.aws.roleArn }}{{ $_ := set $found "eks.amazonaws.com/role-arn" . }}{{ end }}
{{- with .Values.cloudIdentity.google.serviceAccount }}{{ $_ := set $found "iam.gke.io/gcp-service-account" . }}{{ end }}
{{- with .Values.cloudIdentity.azure.clientId }}{{ $_ := set $found "azure.workload.identity/client-id" . }}{{ end }}
{{- with .Values.cloudIdentity.azure.tenantId }}{{ $_ := set $found "azure.workload.identity/tenant-id" . }}{{ end }}
{{- if and $found (not .Values.serviceAccount.create) }}
{{- fail "cloudIdentity annotates the service account that the chart makes: annotate yours instead, or set serviceAccount.create" }}
{{- end }}
{{- toYaml (mergeOverwrite $found .Values.serviceAccount.annotations) }}
{{- end }}

{{- /* The roles of one file of deploy/rbac, under this release's names; `kinds`: only of these; `follow`: what they allow
only for these kinds of objects; `shards`: for so many of their Leases. What they allow is told there alone. */}}
{{- define "overspill.roles" -}}
{{- $top := .top }}
{{- $follow := .follow }}
{{- $name := include "overspill.fullname" $top }}
{{- range $text := splitList "\n---\n" ($top.Files.Get (printf "files/rbac/%s.yaml" .file)) }}
{{- $one := fromYaml $text }}
{{- if has $one.kind ($.kinds | default (list "ClusterRole" "ClusterRoleBinding" "Role" "RoleBinding")) }}
{{- if $one.kind | ne "ConfigMap" }}
{{- $_ := set $one.metadata "name" (replace "overspill" $name $one.metadata.name) }}
{{- end }}
{{- $_ := set $one.metadata "labels" (fromYaml (include "overspill.labels" $top)) }}
{{- if $follow }}
{{- range $rule := $one.rules }}
{{- $kept := list }}
{{- range $kind := $follow }}
{{- $kept = append $kept (printf "%ss" (lower $kind)) }}
{{- end }}
{{- $_ := set $rule "resources" $kept }}
{{- end }}
{{- end }}
{{- with $.shards }}
{{- range $rule := $one.rules }}
{{- $leases := list }}
{{- range $number := until (int $.shards) }}
{{- $leases = append $leases (printf "%s-shard-%d" (include "overspill.lease" $top | trunc 50) $number) }}
{{- end }}
{{- $_ := set $rule "resourceNames" $leases }}
{{- end }}
{{- end }}
{{- if $one.roleRef }}
{{- $_ := set $one.roleRef "name" (replace "overspill" $name $one.roleRef.name) }}
{{- $account := dict "kind" "ServiceAccount" "name" (include "overspill.serviceAccount" $top) "namespace" $top.Release.Namespace }}
{{- $_ := set $one "subjects" (list $account) }}
{{- end }}
---
{{ toYaml $one | replace "overspill-example" (include "overspill.lease" $top) }}
{{- end }}
{{- end }}
{{- end }}
