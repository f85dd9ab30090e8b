#!/bin/bash
# Starts a Kubernetes cluster of one node, as root, without an image registry. usage: up.sh DIR (DIR/bin from build.sh)
# All files are below DIR; the process ids are in DIR/pids. The node is in a network namespace of its own, so that its
# addresses, firewall rules and kernel settings do not touch the machine.
set -euo pipefail
dir=$1
namespace=tenantry-cluster
if [ "${2:-}" != inside ]; then
    ip netns add $namespace
    # Not `ip netns exec`, which hides the mounts of control groups.
    exec nsenter --net=/run/netns/$namespace bash "$0" "$dir" inside
fi
export PATH="$dir/bin:/usr/sbin:$PATH"
cd "$dir"
mkdir -p log pids pki cni run
start() {
    local name=$1
    shift
    setsid "$@" > "log/$name" 2>&1 < /dev/null &
    echo $! > "pids/$name"
}
kube() { kubectl --kubeconfig "$dir/admin.kubeconfig" "$@"; }

ip link set lo up
# An interface for the address of the node (RFC 2544: not routed).
ip link add k8s0 type bridge
ip addr add 198.18.0.1/32 dev k8s0
ip link set k8s0 up
# Without a route, the kernel refuses addresses of Services before they are translated.
ip route add default dev k8s0
# Policies apply to connections between pods of a node, too.
modprobe br_netfilter 2> /dev/null || true
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables

# One authority, and a token for each component.
[ -f pki/ca.key ] || {
    sign() { # name, subject, extensions
        openssl req -newkey rsa:2048 -nodes -keyout "pki/$1.key" -out "pki/$1.csr" -subj "$2" 2> /dev/null
        openssl x509 -req -in "pki/$1.csr" -CA pki/ca.crt -CAkey pki/ca.key -CAcreateserial -days 365 \
            -out "pki/$1.crt" -extfile <(echo "$3") 2> /dev/null
    }
    openssl req -x509 -newkey rsa:2048 -nodes -keyout pki/ca.key -out pki/ca.crt -days 365 -subj /CN=cluster 2> /dev/null
    openssl genrsa -out pki/sa.key 2048 2> /dev/null
    openssl rsa -in pki/sa.key -pubout -out pki/sa.pub 2> /dev/null
    names=DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc
    sign api /CN=kube-apiserver "subjectAltName=$names,IP:127.0.0.1,IP:10.96.0.1,IP:198.18.0.1"
    sign node-client /O=system:masters/CN=apiserver-to-node ""
    umask 077
    token() { openssl rand -hex 16 | tee "pki/$1.token"; }
    {
        echo "$(token admin),admin,1,system:masters"
        echo "$(token kcm),system:kube-controller-manager,2,"
        echo "$(token sched),system:kube-scheduler,3,"
        echo "$(token node),system:node:node1,4,system:nodes"
        echo "$(token proxy),system:kube-proxy,5,"
    } > pki/tokens.csv
    umask 022
}
for user in admin kcm sched node proxy; do
    cat > $user.kubeconfig <<Y
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:16443", certificate-authority: $dir/pki/ca.crt}}]
users: [{name: u, user: {token: $(cat pki/$user.token)}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
Y
done

start etcd etcd --data-dir "$dir/etcd" --unsafe-no-fsync \
    --listen-client-urls http://127.0.0.1:12379 --advertise-client-urls http://127.0.0.1:12379 \
    --listen-peer-urls http://127.0.0.1:12380
start apiserver kube-apiserver --etcd-servers=http://127.0.0.1:12379 --secure-port=16443 --bind-address=0.0.0.0 \
    --advertise-address=198.18.0.1 --kubelet-preferred-address-types=InternalIP \
    --tls-cert-file=pki/api.crt --tls-private-key-file=pki/api.key --client-ca-file=pki/ca.crt \
    --token-auth-file=pki/tokens.csv --authorization-mode=Node,RBAC \
    --kubelet-client-certificate=pki/node-client.crt --kubelet-client-key=pki/node-client.key \
    --service-account-issuer=https://kubernetes.default.svc --service-account-key-file=pki/sa.pub \
    --service-account-signing-key-file=pki/sa.key --service-cluster-ip-range=10.96.0.0/16 --allow-privileged=true \
    --endpoint-reconciler-type=lease
for _ in $(seq 120); do
    kube get --raw /readyz > /dev/null 2>&1 && break
    sleep 1
done
kube get --raw /readyz > /dev/null
start kcm kube-controller-manager --kubeconfig=kcm.kubeconfig --service-account-private-key-file=pki/sa.key \
    --root-ca-file=pki/ca.crt --use-service-account-credentials=true --leader-elect=false --allocate-node-cidrs=false \
    --cluster-signing-cert-file=pki/ca.crt --cluster-signing-key-file=pki/ca.key
start sched kube-scheduler --kubeconfig=sched.kubeconfig --leader-elect=false

# The node. The engine's option is for machines whose root has no CAP_SYS_RESOURCE.
cat > containerd.toml <<Y
version = 2
root = "$dir/containerd"
state = "$dir/run/containerd"
[grpc]
  address = "$dir/run/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/library/tenantry-pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$dir/cni"
Y
cat > cni/10-bridge.conflist <<Y
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
 {"type": "bridge", "bridge": "cni-t0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
  "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}],
           "dataDir": "$dir/cni-state"}},
 {"type": "portmap", "capabilities": {"portMappings": true}}]}
Y
start containerd containerd --config containerd.toml
for _ in $(seq 30); do
    ctr -a run/containerd.sock version > /dev/null 2>&1 && break
    sleep 1
done
ctr -a run/containerd.sock -n k8s.io image import images.tar > /dev/null
cat > kubelet.yaml <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $dir/pki/ca.crt}}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix://$dir/run/containerd.sock
imageMinimumGCAge: 24h
clusterDNS: [198.18.0.1]
clusterDomain: cluster.local
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
enforceNodeAllocatable: []
localStorageCapacityIsolation: false
Y
start kubelet kubelet --kubeconfig=node.kubeconfig --config=kubelet.yaml --hostname-override=node1 \
    --node-ip=198.18.0.1 --root-dir="$dir/kubelet" --cert-dir="$dir/pki/kubelet"
for _ in $(seq 90); do
    kube get node node1 2> /dev/null | grep -qw Ready && break
    sleep 1
done
kube create clusterrolebinding proxy --clusterrole=system:node-proxier --user=system:kube-proxy --dry-run=client \
    -o yaml | kube apply -f -
start proxy kube-proxy --kubeconfig=proxy.kubeconfig --hostname-override=node1 --cluster-cidr=10.244.0.0/16 \
    --conntrack-max-per-core=0
cat > Corefile <<Y
.:53 {
  bind 198.18.0.1
  errors
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $dir/admin.kubeconfig x
  }
  cache 5
}
Y
start coredns coredns -conf Corefile
start router kube-router --kubeconfig=admin.kubeconfig --run-firewall=true --run-router=false \
    --run-service-proxy=false --hostname-override=node1
# Volumes without a provisioner.
{
    cat <<Y
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: local, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
Y
    for i in $(seq 12); do
        mkdir -p -m 0777 "$dir/volumes/$i"
        cat <<Y
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: volume-$i}
spec:
  capacity: {storage: 10Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: local
  local: {path: $dir/volumes/$i}
  nodeAffinity:
    required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [node1]}]}]}
Y
    done
} | kube apply -f - > /dev/null
kube get nodes -o wide
