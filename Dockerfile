# The sidecar's image, two ways to its binary: `/pillion`, static, and nothing else: no shell, no libc, no root.
#
#   docker build -t pillion .                     builds the binary in a container (pulls a base image)
#   docker build -t pillion --target host DIR     packs DIR/pillion, a static binary built before (pulls nothing)
#
# And that of the init container before it, which has the programs that write rules; it runs as root with NET_ADMIN
# and NET_RAW, and ends:
#
#   docker build -t pillion-init --target init .
#
# What pulls nothing stands first: a builder without BuildKit makes every stage above its target.

FROM scratch AS image
# No other program should run as this uid: `pillion init` does not redirect its traffic.
USER 1337:1337
# Inbound and metrics. Outbound (15001) and admin (15000) listen on loopback, for the application beside it.
EXPOSE 15006 15020
ENTRYPOINT ["/pillion"]
CMD ["run"]

FROM image AS host
COPY pillion /pillion

FROM rust:1-slim AS build
# jemalloc is built with make; the compiler and the linker come with the image.
RUN apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
ARG REVISION=unknown
# Naming the target keeps the static flag away from build scripts and procedural macros, which cannot be static.
# The linker packs relocations and folds equal functions, and C brings no tables for unwinding: 600 KB less.
ENV CFLAGS=-fno-asynchronous-unwind-tables
ENV RUSTFLAGS="-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs,--icf=all"
RUN target=$(rustc -vV | sed -n 's/^host: //p') \
 && PILLION_REVISION=$REVISION \
    cargo build --release --locked --bin pillion --target "$target" \
 && mv "target/$target/release/pillion" /pillion

# nft first; iptables, of both kinds, for nodes whose kernel or whose rules are of that age.
FROM debian:12-slim AS init
RUN apt-get update && apt-get install -y --no-install-recommends nftables iptables iproute2 && rm -rf /var/lib/apt/lists/*
COPY --from=build /pillion /pillion
ENTRYPOINT ["/pillion"]
CMD ["init"]

FROM image
COPY --from=build /pillion /pillion
