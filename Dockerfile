# One image, two ways to its binary. The image is `/pillion`, static, and nothing else: no shell, no libc, no root.
#
#   docker build -t pillion .                     builds the binary in a container (pulls one base image)
#   docker build -t pillion --target host DIR     packs DIR/pillion, a static binary built before (pulls nothing)
#
# What pulls nothing stands first: a builder without BuildKit makes every stage above its target.

FROM scratch AS image
# Nobody's uid, and the one whose traffic `pillion init` will leave alone once interception is there.
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
RUN target=$(rustc -vV | sed -n 's/^host: //p') \
 && PILLION_REVISION=$REVISION RUSTFLAGS='-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs' \
    cargo build --release --locked --bin pillion --target "$target" \
 && mv "target/$target/release/pillion" /pillion

FROM image
COPY --from=build /pillion /pillion
