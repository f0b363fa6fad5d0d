{{/* Name of the chart. */}}
{{- define "flagstream.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Name of the objects. 40 characters at most, so that suffixes and the hash of a pod fit into 63. */}}
{{- define "flagstream.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "flagstream.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "flagstream.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels that select all pods of the service. */}}
{{- define "flagstream.selector" -}}
app.kubernetes.io/name: {{ include "flagstream.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Labels of every object. */}}
{{- define "flagstream.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "flagstream.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | trunc 63 | quote }}
app.kubernetes.io/part-of: flagstream
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* `annotations:` of an object: the common ones and those of the argument. Arguments: root, annotations. */}}
{{- define "flagstream.annotations" -}}
{{- $all := merge (dict) (.annotations | default dict) .root.Values.commonAnnotations -}}
{{- with $all }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "flagstream.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "flagstream.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "flagstream.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* Whether a configuration file is mounted: text, or nothing. */}}
{{- define "flagstream.hasConfig" -}}
{{- if or .Values.config .Values.configSecret.name -}}true{{- end -}}
{{- end -}}

{{/* The workloads, as JSON: {"items": [{"suffix": "-api", "component": "api", …settings of the workload}]} */}}
{{- define "flagstream.workloads" -}}
{{- $items := list -}}
{{- if .Values.split -}}
{{- range $name := list "api" "stream" -}}
{{- $own := mustMergeOverwrite (deepCopy $.Values.workload) (deepCopy (index $.Values $name)) -}}
{{- $items = append $items (set (set $own "suffix" (printf "-%s" $name)) "component" $name) -}}
{{- end -}}
{{- else -}}
{{- $items = append $items (set (set (deepCopy .Values.workload) "suffix" "") "component" "flagstream") -}}
{{- end -}}
{{- toJson (dict "items" $items) -}}
{{- end -}}

{{/* The component that answers calls over HTTP. */}}
{{- define "flagstream.httpComponent" -}}
{{- if .Values.split -}}api{{- else -}}flagstream{{- end -}}
{{- end -}}

{{/* Text of a setting. Numbers are without an exponent. */}}
{{- define "flagstream.setting" -}}
{{- if or (kindIs "float64" .) (kindIs "int64" .) (kindIs "int" .) -}}
{{- if eq (floor .) (float64 .) -}}{{- printf "%d" (int64 .) -}}{{- else -}}{{- toString . -}}{{- end -}}
{{- else -}}
{{- toString . -}}
{{- end -}}
{{- end -}}

{{/* The settings without secrets: data of a ConfigMap. Names in `settings` take precedence. */}}
{{- define "flagstream.settings" -}}
{{- $v := .Values -}}
{{- $s := dict -}}
{{- $_ := set $s "KAFKA_BOOTSTRAP_SERVERS" (required "kafka.bootstrapServers is required: host:port of the brokers" $v.kafka.bootstrapServers) -}}
{{- $_ := set $s "FLAGSTREAM_KAFKA__GROUP_ID" $v.kafka.groupId -}}
{{- $address := $v.http.listenAddress -}}
{{- $_ := set $s "FLAGSTREAM_HTTP__LISTEN" (printf "%s:%d" $address (int $v.http.port)) -}}
{{- $_ := set $s "FLAGSTREAM_HTTP__ADMIN_LISTEN" (printf "%s:%d" $address (int $v.http.adminPort)) -}}
{{- $_ := set $s "FLAGSTREAM_HTTP__DRAIN_DELAY" (printf "%ds" (int $v.http.drainSeconds)) -}}
{{- $_ := set $s "FLAGSTREAM_STATE_DIR" "/var/lib/flagstream/state" -}}
{{- $_ := set $s "FLAGSTREAM_LOG_FORMAT" "json" -}}
{{- $_ := set $s "FLAGSTREAM_AUTH__ANONYMOUS_SCOPES" $v.auth.anonymousScopes -}}
{{- if and $v.setup.enabled $v.setup.migrate -}}{{- $_ := set $s "FLAGSTREAM_DATABASE__MIGRATE" "false" -}}{{- end -}}
{{- with $v.kafka.securityProtocol -}}{{- $_ := set $s "FLAGSTREAM_KAFKA__CLIENT__SECURITY_PROTOCOL" . -}}{{- end -}}
{{- with $v.kafka.sasl.mechanism -}}{{- $_ := set $s "FLAGSTREAM_KAFKA__CLIENT__SASL_MECHANISM" . -}}{{- end -}}
{{- if and $v.kafka.sasl.username (not $v.kafka.sasl.usernameKey) -}}{{- $_ := set $s "FLAGSTREAM_KAFKA__CLIENT__SASL_USERNAME" $v.kafka.sasl.username -}}{{- end -}}
{{- if $v.kafka.tls.caSecret -}}{{- $_ := set $s "FLAGSTREAM_KAFKA__CLIENT__SSL_CA_LOCATION" "/etc/flagstream/kafka-ca/ca.crt" -}}{{- end -}}
{{- if $v.kafka.tls.clientSecret -}}
{{- $_ := set $s "FLAGSTREAM_KAFKA__CLIENT__SSL_CERTIFICATE_LOCATION" "/etc/flagstream/kafka-client/tls.crt" -}}
{{- $_ := set $s "FLAGSTREAM_KAFKA__CLIENT__SSL_KEY_LOCATION" "/etc/flagstream/kafka-client/tls.key" -}}
{{- end -}}
{{- with $v.unleash.url -}}{{- $_ := set $s "UNLEASH_URL" . -}}{{- end -}}
{{- with $v.unleash.environment -}}{{- $_ := set $s "UNLEASH_ENVIRONMENT" . -}}{{- end -}}
{{- with $v.schemaRegistry.url -}}{{- $_ := set $s "SCHEMA_REGISTRY_URL" . -}}{{- end -}}
{{- if $v.http.tls.existingSecret -}}
{{- $_ := set $s "FLAGSTREAM_HTTP__TLS_CERTIFICATE" "/etc/flagstream/http-tls/tls.crt" -}}
{{- $_ := set $s "FLAGSTREAM_HTTP__TLS_KEY" "/etc/flagstream/http-tls/tls.key" -}}
{{- end -}}
{{- range $name, $value := $v.settings -}}{{- $_ := set $s $name (include "flagstream.setting" $value) -}}{{- end -}}
{{- range $name, $value := $s }}
{{ $name }}: {{ $value | quote }}
{{- end }}
{{- end -}}

{{/* Environment variables that come from secrets, and additional ones. */}}
{{- define "flagstream.env" -}}
{{- $v := .Values -}}
- name: FLAGSTREAM_INSTANCE
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- $refs := list
    (list "DATABASE_URL" $v.database.existingSecret $v.database.key)
    (list "REDIS_URL" $v.redis.existingSecret $v.redis.key)
    (list "UNLEASH_API_TOKEN" $v.unleash.existingSecret $v.unleash.tokenKey)
    (list "UNLEASH_ADMIN_TOKEN" $v.unleash.existingSecret $v.unleash.adminTokenKey)
    (list "FLAGSTREAM_UNLEASH__WEBHOOK_SECRET" $v.unleash.existingSecret $v.unleash.webhookSecretKey)
    (list "FLAGSTREAM_KAFKA__CLIENT__SASL_USERNAME" $v.kafka.sasl.existingSecret $v.kafka.sasl.usernameKey)
    (list "FLAGSTREAM_KAFKA__CLIENT__SASL_PASSWORD" $v.kafka.sasl.existingSecret $v.kafka.sasl.passwordKey)
    (list "FLAGSTREAM_AUTH__BOOTSTRAP_TOKEN" $v.auth.bootstrapToken.existingSecret $v.auth.bootstrapToken.key)
    (list "FLAGSTREAM_AUDIT__CHAIN_KEY" $v.audit.chainKey.existingSecret $v.audit.chainKey.key) }}
{{- range $refs }}
{{- if and (index . 1) (index . 2) }}
- name: {{ index . 0 }}
  valueFrom:
    secretKeyRef:
      name: {{ index . 1 }}
      key: {{ index . 2 }}
{{- end }}
{{- end }}
{{- with $v.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Volumes of configuration and certificates. Argument: root, configMap (name of the ConfigMap). */}}
{{- define "flagstream.volumes" -}}
{{- $v := .root.Values -}}
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- if $v.configSecret.name }}
- name: config
  secret:
    secretName: {{ $v.configSecret.name }}
    defaultMode: 0440
    items: [{key: {{ $v.configSecret.key }}, path: flagstream.toml}]
{{- else if $v.config }}
- name: config
  configMap:
    name: {{ .configMap }}
    items: [{key: flagstream.toml, path: flagstream.toml}]
{{- end }}
{{- with $v.http.tls.existingSecret }}
- name: http-tls
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- if $v.kafka.tls.caSecret }}
- name: kafka-ca
  secret:
    secretName: {{ $v.kafka.tls.caSecret }}
    defaultMode: 0440
    items: [{key: {{ $v.kafka.tls.caKey }}, path: ca.crt}]
{{- end }}
{{- if $v.kafka.tls.clientSecret }}
- name: kafka-client
  secret:
    secretName: {{ $v.kafka.tls.clientSecret }}
    defaultMode: 0440
    items:
      - {key: {{ $v.kafka.tls.certificateKey }}, path: tls.crt}
      - {key: {{ $v.kafka.tls.keyKey }}, path: tls.key}
{{- end }}
{{- end -}}

{{/* Mounts of these volumes. */}}
{{- define "flagstream.mounts" -}}
{{- $v := .Values -}}
- {name: tmp, mountPath: /tmp}
{{- if include "flagstream.hasConfig" . }}
- {name: config, mountPath: /etc/flagstream/config, readOnly: true}
{{- end }}
{{- if $v.http.tls.existingSecret }}
- {name: http-tls, mountPath: /etc/flagstream/http-tls, readOnly: true}
{{- end }}
{{- if $v.kafka.tls.caSecret }}
- {name: kafka-ca, mountPath: /etc/flagstream/kafka-ca, readOnly: true}
{{- end }}
{{- if $v.kafka.tls.clientSecret }}
- {name: kafka-client, mountPath: /etc/flagstream/kafka-client, readOnly: true}
{{- end }}
{{- end -}}

{{/* Arguments that name the configuration file. */}}
{{- define "flagstream.configArgument" -}}
{{- if include "flagstream.hasConfig" . }}
- --config=/etc/flagstream/config/flagstream.toml
{{- end }}
{{- end -}}
