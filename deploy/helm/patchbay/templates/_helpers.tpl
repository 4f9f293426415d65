{{/* SPDX-License-Identifier: BSD-2-Clause */}}

{{- define "patchbay.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "patchbay.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "patchbay.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "patchbay.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "patchbay.selector" -}}
app.kubernetes.io/name: {{ include "patchbay.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "patchbay.labels" -}}
{{ include "patchbay.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "patchbay.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "patchbay.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* The Secret with patchbay.toml. */}}
{{- define "patchbay.configSecret" -}}
{{- default (printf "%s-config" (include "patchbay.fullname" .)) .Values.existingConfigSecret }}
{{- end }}

{{/* Not empty if something else than replicaCount says how many gateways run. */}}
{{- define "patchbay.scaled" -}}
{{- if or .Values.autoscaling.enabled .Values.keda.gateways.enabled }}yes{{ end }}
{{- end }}

{{/* The URL of the Service, from inside the cluster. */}}
{{- define "patchbay.internalUrl" -}}
{{- $scheme := ternary "https" "http" (not (empty .Values.tls.existingSecret)) }}
{{- printf "%s://%s.%s.svc:%v" $scheme (include "patchbay.fullname" .) .Release.Namespace .Values.service.port }}
{{- end }}

{{/* What would lose calls, or count places wrongly, is refused. */}}
{{- define "patchbay.check" -}}
{{- $redis := eq .Values.store.kind "redis" }}
{{- if and (not $redis) (or (gt (int .Values.replicaCount) 1) (include "patchbay.scaled" .)) }}
{{- fail "several gateways need a store that they share: store.kind=redis" }}
{{- end }}
{{- if and $redis (not .Values.store.url) (not .Values.existingSecret) }}
{{- fail "store.kind=redis needs store.url, or existingSecret with PATCHBAY_STORE__URL" }}
{{- end }}
{{- if and $redis .Values.persistence.enabled }}
{{- fail "persistence is for store.kind=sqlite: on Redis the gateways have no file" }}
{{- end }}
{{- if and .Values.autoscaling.enabled .Values.keda.gateways.enabled }}
{{- fail "autoscaling and keda.gateways would pull the same Deployment two ways: choose one" }}
{{- end }}
{{- if and .Values.tls.existingSecret .Values.ingress.enabled }}
{{- fail "tls.existingSecret is for gateways that carriers reach without the ingress" }}
{{- end }}
{{- if eq (int .Values.server.port) (int .Values.server.nodePort) }}
{{- fail "server.port and server.nodePort must differ" }}
{{- end }}
{{- end }}
