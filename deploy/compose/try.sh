#!/usr/bin/env bash
# Runs compose.yaml with images of this machine's own files, so that nothing is pulled: deploy/compose/try.sh BINARY
#
# BINARY is a static pillion. Needs Docker, docker-compose, /usr/bin/python3 and prometheus. Ends with 0 when `web` was answered
# by `orders` through both sidecars, and Prometheus has scraped both.
set -euo pipefail
BINARY=$(realpath "$1")
cd "$(dirname "$0")"
export COMPOSE_PROJECT_NAME=pillion-try-$$ PILLION_IMAGE=pillion:try PYTHON_IMAGE=python:try PROMETHEUS_IMAGE=prometheus:try
export WEB_PORT=0 PROMETHEUS_PORT=0 # Docker takes free ports when it binds them
WORK=$(mktemp -d)

leave() {
    local code=$?
    [ "$code" = 0 ] || docker-compose logs --no-color --tail 20 || true
    docker-compose down --volumes --timeout 2 >/dev/null 2>&1 || true
    rm -rf "$WORK"
    exit "$code"
}
trap leave EXIT

# libraries PROGRAM: what the dynamic linker loads for it.
libraries() { ldd "$1" | grep -o '/[^ ]*'; }

# image TAG CHANGE PATH…: an image of these files of the machine, with links followed.
image() {
    local tag=$1 change=$2
    shift 2
    tar --create --dereference --hard-dereference --absolute-names --ignore-failed-read --exclude='*.pyc' --exclude='*/test' "$@" 2>/dev/null |
        docker import --change "$change" - "$tag" >/dev/null
}

images() {
    cp "$BINARY" "$WORK/pillion"
    docker build --quiet --file ../../Dockerfile --target host --tag "$PILLION_IMAGE" "$WORK" >/dev/null
    local python extensions
    python=$(readlink -f /usr/bin/python3)
    extensions=$(find /usr/lib/python3*/lib-dynload -name '*.so')
    # shellcheck disable=SC2046,SC2086
    image "$PYTHON_IMAGE" 'ENV PATH=/usr/bin:/bin' /usr/bin/python3 /bin/chown "${python/\/bin\//\/lib\/}" \
        $( { libraries /usr/bin/python3; libraries /bin/chown; for one in $extensions; do libraries "$one"; done; } | sort -u)
    # shellcheck disable=SC2046
    image "$PROMETHEUS_IMAGE" 'ENTRYPOINT ["/usr/bin/prometheus"]' /usr/bin/prometheus $(libraries /usr/bin/prometheus)
}

# eventually WHAT COMMAND…: until the command succeeds, for at most a minute.
eventually() {
    local what=$1
    shift
    for _ in $(seq 120); do
        "$@" && return 0
        sleep 0.5
    done
    echo "not within a minute: $what" >&2
    return 1
}

# publishes VARIABLE SERVICE PORT: sets the address on this machine at which the port of a container is reached, once there is one.
publishes() {
    local at
    at=$(docker-compose port "$2" "$3" 2>/dev/null) && [ "${at##*:}" -gt 0 ] 2>/dev/null && printf -v "$1" %s "$at"
}
web_says() { curl --silent --max-time 5 "http://$WEB/" | grep -q 'orders says: your order is accepted'; }
both_are_scraped() {
    curl --silent --max-time 5 "http://$PROMETHEUS/api/v1/query?query=up" |
        python3 -c 'import json, sys; up = [it["value"][1] for it in json.load(sys.stdin)["data"]["result"]]; sys.exit(up != ["1", "1"])' 2>/dev/null
}

images
docker-compose up --detach
eventually 'Docker publishes the port of web' publishes WEB web-sidecar 8080
eventually 'Docker publishes the port of Prometheus' publishes PROMETHEUS prometheus 9090
eventually 'web is answered by orders' web_says
eventually 'Prometheus scrapes both sidecars' both_are_scraped
echo 'web was answered by orders through both sidecars, and Prometheus scrapes both'
