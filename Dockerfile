# The image of the sidecar. It contains the static binary `/pillion` and nothing else: no shell, no libc, no root.
# Two ways to build it:
#
#   docker build -t pillion .                     builds the binary in a container (pulls a base image)
#   docker build -t pillion --target host DIR     packs DIR/pillion, a static binary built before (pulls nothing)
#
# The image of the init container has the programs that write rules. It runs as root with NET_ADMIN and NET_RAW, and
# ends before the sidecar starts:
#
#   docker build -t pillion-init --target init .
#
# The stages that pull nothing come first: a builder without BuildKit builds every stage above its target.

FROM scratch AS image
# No other program should run as this uid: `pillion init` does not redirect its traffic.
USER 1337:1337
# Inbound and metrics. Outbound (15001) and admin (15000) listen on loopback, for the application beside it.
EXPOSE 15006 15020
# Docker and Podman ask the metrics port at its usual place; Kubernetes has probes of its own.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["/pillion", "wait", "--timeout", "2s"]
ENTRYPOINT ["/pillion"]
CMD ["run"]

FROM image AS host
COPY pillion /pillion

# The version of deploy/pillion.rustc, which can use the profile of requests.
FROM rust:1.95.0-slim AS build
# jemalloc is built with make; the compiler and the linker come with the image.
RUN apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
ARG REVISION=unknown
RUN PILLION_REVISION=$REVISION deploy/build.sh \
 && strip -o /pillion "target/$(rustc --print host-tuple)/release/pillion"

# nft is preferred; both variants of iptables are for nodes whose kernel or whose rules are older.
FROM debian:12-slim AS init
RUN apt-get update && apt-get install -y --no-install-recommends nftables iptables iproute2 && rm -rf /var/lib/apt/lists/*
COPY --from=build /pillion /pillion
ENTRYPOINT ["/pillion"]
CMD ["init"]

FROM image
COPY --from=build /pillion /pillion
