#!/bin/bash
# Compiles the programs of a Kubernetes cluster from the Go module proxy into DIR/bin. usage: build.sh DIR
# 1.34 is the newest version whose node agent starts on control groups of version 1 without a switch.
set -euo pipefail
dir=$(realpath --canonicalize-missing "$1")
version=1.34.4
libraries=v0.34.4
mkdir -p "$dir/bin" "$dir/src"
cd "$dir/src"
export CGO_ENABLED=0 GOFLAGS=-mod=mod GOBIN="$dir/bin"
[ -f go.mod ] || go mod init cluster
for name in api apiextensions-apiserver apimachinery apiserver cli-runtime client-go cloud-provider cluster-bootstrap \
    code-generator component-base component-helpers controller-manager cri-api cri-client csi-translation-lib \
    dynamic-resource-allocation endpointslice externaljwt kms kube-aggregator kube-controller-manager kube-proxy \
    kube-scheduler kubectl kubelet metrics mount-utils pod-security-admission sample-apiserver sample-cli-plugin \
    sample-controller; do
    go mod edit -replace "k8s.io/$name=k8s.io/$name@$libraries"
done
go mod edit -require "k8s.io/kubernetes@v$version"
programs=(kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl kube-proxy)
{
    echo '//go:build tools'
    echo 'package cluster'
    for program in "${programs[@]}"; do echo "import _ \"k8s.io/kubernetes/cmd/$program\""; done
} > tools.go
go mod tidy -e
package=k8s.io/component-base/version
go build -ldflags "-s -w -X $package.gitVersion=v$version -X $package.gitMajor=1 -X $package.gitMinor=34" \
    -o "$dir/bin/" "${programs[@]/#/k8s.io/kubernetes/cmd/}"
unset GOFLAGS
# Names of services.
go install github.com/coredns/coredns@v1.15.0
# Enforces network policies.
go install github.com/cloudnativelabs/kube-router/v2/cmd/kube-router@v2.1.0
go install helm.sh/helm/v3/cmd/helm@v3.18.6
# Load with connections that stay open.
go install github.com/bojand/ghz/cmd/ghz@v0.120.0
