{{- /* Objects of a file. */ -}}
{{- define "tenantry.file" -}}
{{- $root := .root -}}
{{- range splitList "\n---\n" (.root.Files.Get .file) }}
{{- include "tenantry.object" (dict "root" $root "object" (fromYaml .)) }}
{{- end }}
{{- end }}

{{- /* One object, with the values of the chart. */ -}}
{{- define "tenantry.object" -}}
{{- $values := .root.Values -}}
{{- $object := .object -}}
{{- if $object.Error }}{{ fail $object.Error }}{{ end -}}
{{- $name := $object.metadata.name -}}
{{- $_ := set $object.metadata "namespace" .root.Release.Namespace -}}
{{- range $object.subjects }}{{ $_ := set . "namespace" $.root.Release.Namespace }}{{ end -}}
{{- if and (eq $object.kind "ConfigMap") (eq $name "settings") -}}
{{- $_ := set $object "data" (merge (deepCopy $values.settings) $object.data) -}}
{{- end -}}
{{- $template := dict -}}
{{- if has $object.kind (list "Deployment" "StatefulSet" "Job") }}{{ $template = $object.spec.template }}{{ end -}}
{{- if eq $object.kind "CronJob" }}{{ $template = $object.spec.jobTemplate.spec.template }}{{ end -}}
{{- if $template.spec -}}
{{- range $container := $template.spec.containers -}}
{{- $image := regexFind "^tenantry-[^:]*" $container.image -}}
{{- if $image -}}
{{- $tag := $values.image.tag | default (splitList ":" $container.image | last) -}}
{{- if $values.image.prefix }}{{ $image = trimPrefix "tenantry-" $image | printf "%s%s" $values.image.prefix }}{{ end -}}
{{- $_ := set $container "image" (printf "%s:%s" $image $tag) -}}
{{- end -}}
{{- with get $values.resources $name }}{{ $_ := mergeOverwrite $container.resources (deepCopy .) }}{{ end -}}
{{- if and $values.certManager (eq $name "cluster-secrets") }}{{ $_ := set $container "args" (append $container.args "--keys-only") }}{{ end -}}
{{- end -}}
{{- end -}}
{{- with get $values.patches (printf "%s/%s" $object.kind $name) }}{{ $_ := mergeOverwrite $object (deepCopy .) }}{{ end -}}
{{- if not (and $values.certManager (eq $object.kind "CronJob")) }}
---
{{ toYaml $object }}
{{ end -}}
{{- end }}
