#!/bin/bash
# Stops what up.sh started, by process id, the pods first, and deletes its state except for the programs.
# usage: down.sh DIR
dir=$1
cd "$dir" || exit 0
[ -d pids ] || exit 0
end() { # process id
    kill "$1" 2> /dev/null
    for i in $(seq 60); do
        [ -d "/proc/$1" ] && ! grep -q '^State:.Z' "/proc/$1/status" 2> /dev/null || return 0
        [ "$i" = 40 ] && kill -9 "$1" 2> /dev/null
        sleep .25
    done
}
containers() { ctr -a run/containerd.sock -n k8s.io "$@"; }
for name in kubelet proxy coredns; do [ -f pids/$name ] && end "$(cat pids/$name)"; done
for task in $(containers task ls -q 2> /dev/null); do containers task kill -s KILL "$task" 2> /dev/null; done
sleep 1
for container in $(containers container ls -q 2> /dev/null); do
    for netns in $(containers container info "$container" | grep -o 'netns/cni-[^"]*' | sort -u); do
        ip netns del "${netns#netns/}" 2> /dev/null
    done
    containers task rm -f "$container" 2> /dev/null
    containers container rm "$container" 2> /dev/null
done
for name in router sched kcm apiserver containerd etcd; do [ -f pids/$name ] && end "$(cat pids/$name)"; done
awk -v dir="$dir" 'index($2, dir) == 1 {print $2}' /proc/mounts | sort -r | while read -r mount; do umount -l "$mount"; done
ip netns del tenantry-cluster 2> /dev/null
rm -rf pids etcd run containerd kubelet volumes cni-state pki images.tar
true
