#!/bin/sh
# Builds and starts the composed service, runs one job over files and the same over a bucket, and stops it again.
# COMPOSE and DOCKER name other commands; KEEP=1 leaves everything running.
set -eu
cd "$(dirname "$0")"
COMPOSE=${COMPOSE:-docker compose}
DOCKER=${DOCKER:-docker}

random() { od -An -N 24 -tx1 /dev/urandom | tr -d ' \n'; }

$DOCKER build --file Dockerfile --tag tamis ..
if [ ! -e .env ]; then
    umask 077
    token=$($DOCKER run --rm tamis keys token)
    printf 'POSTGRES_PASSWORD=%s\nS3_SECRET=%s\nTAMIS_TOKEN=%s\n' "$(random)" "$(random)" "$token" >.env
fi
stop() {
    status=$?
    [ "$status" = 0 ] || $COMPOSE logs --tail 40
    [ -n "${KEEP:-}" ] || $COMPOSE down
    exit "$status"
}
trap stop EXIT
$COMPOSE up --detach
tries=0
until $COMPOSE exec -T api python -c 'import urllib.request; urllib.request.urlopen("http://127.0.0.1:8321/readyz")' 2>/dev/null; do
    tries=$((tries + 1))
    [ "$tries" -lt 60 ] || exit 1
    sleep 2
done
$COMPOSE exec -T --env "TAMIS_TOKEN=$(sed -n 's/^TAMIS_TOKEN=//p' .env)" api python - <smoke.py
