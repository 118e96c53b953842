#!/usr/bin/env bash
# Check sweeps on a real Slurm of one machine, which is set up in a folder and taken down again.
#   scripts/slurm_test.sh [PYTEST OPTIONS]       set up, run tests/test_slurm.py, one line a check, take down
#   scripts/slurm_test.sh --install […]          the same, after Debian's packages have been installed (root)
#   scripts/slurm_test.sh up DIR | down DIR      only that; SLURM_CONF=DIR/slurm.conf makes sbatch and squeue use it
# It needs no systemd and no configuration in /etc, and leaves a Slurm that is there alone: munge key, sockets and
# ports are its own. Jobs run as the user who starts it.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
packages="slurmctld slurmd slurm-client munge"

free_port() { "$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

up() {
    local dir=$1 host cores
    mkdir -p "$dir/state" "$dir/spool"
    chmod 755 "$dir"
    host=$(hostname -s)
    cores=$(nproc)
    (umask 077 && head -c 1024 /dev/urandom >"$dir/munge.key")
    munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
        --log-file="$dir/munged.log" --seed-file="$dir/munge.seed" 2>>"$dir/up.log"
    # cred_expire: a requeued job waits that long, which must be longer than KillWait (defaults: 120 and 30 s).
    cat >"$dir/slurm.conf" <<END
ClusterName=dpbench
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket,cred_expire=15
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
PlugStackConfig=/dev/null
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
JobRequeue=0
ReturnToService=1
KillWait=5
MinJobAge=300
SchedulerParameters=sched_interval=2,batch_sched_delay=1,bf_interval=2
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=$((cores > 4 ? cores : 4)) RealMemory=100000 State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
END
    export SLURM_CONF=$dir/slurm.conf
    slurmctld -c -f "$SLURM_CONF" 2>>"$dir/up.log"
    slurmd -c -f "$SLURM_CONF" 2>>"$dir/up.log"
    for _ in $(seq 60); do
        [[ $(sinfo --noheader --format=%T 2>/dev/null) == idle ]] && return
        sleep 0.5
    done
    tail -n 20 "$dir"/*.log >&2
    echo "slurm_test.sh: no node is idle after 30 s; the logs are above" >&2
    return 1
}

down() {
    local dir=$1 name pid
    export SLURM_CONF=$dir/slurm.conf
    if [[ -f $SLURM_CONF ]] && scancel --quiet --user="$(id -un)" 2>/dev/null; then
        for _ in $(seq 40); do
            [[ -z $(squeue --noheader 2>/dev/null) ]] && break
            sleep 0.5
        done
    fi
    for name in slurmd slurmctld munged; do
        pid=$(cat "$dir/$name.pid" 2>/dev/null) || continue
        kill "$pid" 2>/dev/null || continue
        for _ in $(seq 20); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.5
        done
        kill -9 "$pid" 2>/dev/null || true
    done
    rm -rf "$dir"
}

root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
[[ -x $python ]] || python=$(command -v python3)
if [[ ${1:-} == --install ]]; then
    shift
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086
    apt-get update -qq && apt-get install -qq -y --no-install-recommends $packages >/dev/null
fi
for program in slurmctld slurmd sbatch munged; do
    if ! command -v $program >/dev/null; then
        echo "slurm_test.sh: there is no $program here. On Debian: scripts/slurm_test.sh --install, as root" >&2
        exit 2
    fi
done
case ${1:-} in
    up | down) "$1" "$2" ;;
    *)
        dir=$(mktemp -d /tmp/slurm.XXXXXX)
        tests=
        trap '[[ -z $tests ]] || kill -- "-$tests" 2>/dev/null || true; down "$dir"' EXIT
        trap 'exit 130' INT TERM HUP
        up "$dir"
        cd "$root"
        set -m # a group of processes, which ends with this script
        DP_BENCH_SLURM=$dir "$python" -m pytest -vv --no-header --tb=short tests/test_slurm.py \
            tests/test_sweep.py::test_without_slurm_a_sweep_says_so_in_a_line "$@" &
        tests=$!
        wait "$tests"
        ;;
esac
