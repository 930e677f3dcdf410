#!/usr/bin/env bash
# A real Slurm from Debian's packages on this machine, on loopback alone. As root:
#   tests/slurm/start.sh start | stop | run COMMAND...     run: start, do COMMAND, stop whatever happens
# State and logs lie in $SLURM_TEST_DIR (default: a folder slurm-test in the temporary folder).
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
ROOT=${SLURM_TEST_DIR:-${TMPDIR:-/tmp}/slurm-test}
HOST=$(hostname -s)
CONF=$ROOT/slurm.conf

runs() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }

install_packages() {
  command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null && return
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    slurmctld slurmd slurm-client munge >/dev/null
}

write_configuration() {
  mkdir -p "$ROOT"/{state,spool,log,run} /etc/slurm
  local memory=$(( $(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024 - 1024 ))
  sed -e "s#@HOST@#$HOST#g; s#@CPUS@#$(nproc)#; s#@MEMORY@#$memory#; s#@ROOT@#$ROOT#g" "$HERE/slurm.conf.in" >"$CONF"
  if [ -e /etc/slurm/slurm.conf ] && [ ! -L /etc/slurm/slurm.conf ]; then
    echo "this machine has a Slurm of its own (/etc/slurm/slurm.conf)" >&2
    exit 1
  fi
  ln -sfn "$CONF" /etc/slurm/slurm.conf
}

start_munge() {
  mkdir -p /run/munge /var/log/munge /var/lib/munge /etc/munge
  [ -s /etc/munge/munge.key ] || (umask 077 && head -c 1024 /dev/urandom >/etc/munge/munge.key)
  chown -R munge:munge /etc/munge /run/munge /var/log/munge /var/lib/munge
  chmod 0700 /etc/munge /var/log/munge /var/lib/munge
  chmod 0755 /run/munge
  chmod 0400 /etc/munge/munge.key
  runs /run/munge/munged.pid || setpriv --reuid=munge --regid=munge --clear-groups /usr/sbin/munged
}

start() {
  install_packages
  runs "$ROOT/run/slurmctld.pid" || rm -rf "$ROOT"/{state,spool} # jobs of another time would occupy the node
  write_configuration
  start_munge
  runs "$ROOT/run/slurmctld.pid" || slurmctld -f "$CONF"
  runs "$ROOT/run/slurmd.pid" || slurmd -f "$CONF" -N "$HOST"
  for _ in $(seq 1 150); do
    if [ "$(sinfo -h -o %t 2>/dev/null)" = idle ]; then
      echo "slurm is up: $(sinfo -h -o '%P %c cpus %t')"
      return 0
    fi
    scontrol update nodename="$HOST" state=resume >/dev/null 2>&1 || true
    sleep 0.1
  done
  tail -n 5 "$ROOT"/log/*.log >&2
  return 1
}

stop() { # by the pid files that these daemons wrote, never by name
  scancel --user=root 2>/dev/null || true
  for file in "$ROOT/run/slurmd.pid" "$ROOT/run/slurmctld.pid" /run/munge/munged.pid; do
    if runs "$file"; then kill "$(cat "$file")"; fi
  done
  if [ "$(readlink /etc/slurm/slurm.conf 2>/dev/null)" = "$CONF" ]; then rm /etc/slurm/slurm.conf; fi
}

case "${1:-}" in
  start) start ;;
  stop) stop ;;
  run)
    shift
    trap stop EXIT
    start
    PATH=$HERE/shim:$PATH "$@"
    ;;
  *)
    sed -n '2,4p' "$0"
    exit 2
    ;;
esac
