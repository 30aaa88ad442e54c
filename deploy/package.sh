#!/usr/bin/env bash
# Makes a Debian package and a tar archive of a static binary: deploy/package.sh BINARY FOLDER
#
# The same binary, commit and tools give the same bytes: the time of everything inside is SOURCE_DATE_EPOCH, by default that
# of the commit. Needs cargo (for manual pages and completions), dpkg-deb and GNU tar. docs/install.md says how the results are
# installed.
set -euo pipefail

[ $# = 2 ] || { echo "usage: deploy/package.sh BINARY FOLDER" >&2; exit 2; }
BINARY=$(realpath "$1")
mkdir -p "$2"
OUT=$(realpath "$2")
cd "$(dirname "$0")/.."

SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH TZ=UTC LC_ALL=C
umask 022

# The version of the workspace, and Debian's name of the machine that the binary is for.
VERSION=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
machine() { od -An -tu2 -j18 -N2 "$BINARY" | tr -d ' '; }
case $(machine) in
    62) ARCH=amd64 ;;
    183) ARCH=arm64 ;;
    *) echo "$BINARY is not a program for x86-64 or arm64" >&2; exit 1 ;;
esac
MAINTAINER=${MAINTAINER:-Pillion <pillion@example.org>}
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

# put MODE FROM TO: a file of the package.
put() { install -D -m "$1" "$2" "$3"; }

# below ROOT: what both packages have below a prefix.
below() {
    put 755 "$BINARY" "$1/bin/pillion"
    cp -r "$WORK/share" "$1/"
}

make_share() {
    cargo run --quiet --locked -p pillion-process --example package_files -- "$WORK/share"
}

stamp() { find "$1" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +; }

# pillion-VERSION-linux-ARCH.tar.gz, to be unpacked anywhere.
make_tar() {
    local name=pillion-$VERSION-linux-$ARCH
    below "$WORK/tar/$name"
    put 644 deploy/systemd/pillion.service "$WORK/tar/$name/systemd/pillion.service"
    put 644 deploy/debian/pillion.yaml "$WORK/tar/$name/pillion.yaml"
    put 644 LICENSE "$WORK/tar/$name/LICENSE"
    put 644 docs/install.md "$WORK/tar/$name/INSTALL.md"
    stamp "$WORK/tar"
    tar --create --directory "$WORK/tar" --sort=name --owner=0 --group=0 --numeric-owner --format=gnu \
        --mtime="@$SOURCE_DATE_EPOCH" "$name" | gzip -9n >"$OUT/$name.tar.gz"
    echo "$OUT/$name.tar.gz"
}

control() {
    cat <<END
Package: pillion
Version: $VERSION
Architecture: $ARCH
Maintainer: $MAINTAINER
Section: net
Priority: optional
Depends: adduser
Suggests: ca-certificates, nftables
Installed-Size: $1
Description: service-mesh sidecar proxy
 Pillion is one static binary that runs beside one application. It takes the
 connections that the application makes and the connections that others make
 to it, and adds mutual TLS with SPIFFE identities, load balancing, timeouts,
 retries, circuit breaking, routing, metrics and an access log.
END
}

# In Debian's form; what changed stands in the file that it names.
changelog() {
    printf 'pillion (%s) unstable; urgency=medium\n\n  * CHANGELOG.md.gz says what changed.\n\n -- %s  %s\n' \
        "$VERSION" "$MAINTAINER" "$(date --rfc-email --date="@$SOURCE_DATE_EPOCH")"
}

# The kibibytes that the files below a folder take, each rounded up, and one for every folder and link, as dpkg-gencontrol counts: the
# same on every file system.
installed_size() {
    find "$1" -mindepth 1 -path "$1/DEBIAN" -prune -o -printf '%y %s\n' |
        awk '{ sum += $1 == "f" ? int(($2 + 1023) / 1024) : 1 } END { print sum }'
}

# Debian's policy wants changelog and manual pages compressed.
make_deb() {
    local root=$WORK/deb page
    below "$root/usr"
    for page in "$root"/usr/share/man/man1/*.1; do gzip -9n "$page"; done
    put 644 deploy/systemd/pillion.service "$root/usr/lib/systemd/system/pillion.service"
    put 644 deploy/debian/pillion.yaml "$root/etc/pillion/pillion.yaml"
    put 644 deploy/debian/copyright "$root/usr/share/doc/pillion/copyright"
    put 644 deploy/debian/README.Debian "$root/usr/share/doc/pillion/README.Debian"
    put 644 CHANGELOG.md "$root/usr/share/doc/pillion/CHANGELOG.md"
    changelog >"$root/usr/share/doc/pillion/changelog"
    gzip -9n "$root"/usr/share/doc/pillion/{CHANGELOG.md,changelog}
    mkdir "$root/DEBIAN"
    (cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
    control "$(installed_size "$root")" >"$root/DEBIAN/control"
    echo /etc/pillion/pillion.yaml >"$root/DEBIAN/conffiles"
    for script in postinst prerm postrm; do put 755 "deploy/debian/$script" "$root/DEBIAN/$script"; done
    stamp "$root"
    dpkg-deb --build --root-owner-group -Zxz --threads-max=1 "$root" "$OUT/pillion_${VERSION}_$ARCH.deb" >/dev/null
    echo "$OUT/pillion_${VERSION}_$ARCH.deb"
}

make_share
make_tar
make_deb
