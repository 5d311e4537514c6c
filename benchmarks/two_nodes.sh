#!/usr/bin/env bash
# Two nodes of one machine: torchrun meets across two network namespaces joined by a virtual cable.
# sudo bash benchmarks/two_nodes.sh    (77 and the reason where namespaces are not permitted)
set -euo pipefail

python=${PYTHON:-python}
folder=$(mktemp -d)
first=vitlit-a$$ second=vitlit-b$$

clean() {
    for name in "$first" "$second"; do
        ip netns pids "$name" 2>/dev/null | xargs -r kill -KILL
    done
    ip netns delete "$first" 2>/dev/null || true
    ip netns delete "$second" 2>/dev/null || true
    rm -rf "$folder"
}
trap clean EXIT

if ! command -v ip >/dev/null; then
    echo "skipped: there is no ip command (package iproute2)"
    exit 77
fi
if ! reason=$(ip netns add "$first" 2>&1); then
    echo "skipped: network namespaces are not permitted: $reason"
    exit 77
fi
ip netns add "$second"
if ! reason=$(ip link add "a$$" netns "$first" type veth peer name "b$$" netns "$second" 2>&1); then
    echo "skipped: virtual cables are not permitted: $reason"
    exit 77
fi
ip -n "$first" addr add 10.99.0.1/24 dev "a$$"
ip -n "$second" addr add 10.99.0.2/24 dev "b$$"
for pair in "$first a$$" "$second b$$"; do
    read -r name card <<<"$pair"
    ip -n "$name" link set lo up
    ip -n "$name" link set "$card" up
done

run() { # namespace, card, rank of the node
    cd "$folder"
    GLOO_SOCKET_IFNAME=$2 CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1 ip netns exec "$1" \
        "$python" -m torch.distributed.run --nnodes=2 --nproc_per_node=1 --node_rank="$3" \
        --rdzv_backend=c10d --rdzv_endpoint=10.99.0.1:29500 --rdzv_id=two_nodes \
        --rdzv_conf="is_host=$((1 - $3)),read_timeout=120" \
        --local_addr="10.99.0.$(($3 + 1))" -m vitlit fit --config digits.yaml \
        --trainer.accelerator=cpu --trainer.strategy=ddp --trainer.num_nodes=2 \
        --trainer.devices=1 --trainer.max_epochs=2 --trainer.enable_progress_bar=false
}
run "$first" "a$$" 0 &
pid=$!
run "$second" "b$$" 1
wait "$pid"
echo "two nodes trained together"
