#!/bin/sh
# Compare the image digests of docker-compose.yml and the Dockerfile with the registry; with --write, renew them.
#   sh docker/pin-images.sh [--write] [FILE ...]
# It needs docker with buildx. An image whose tag has moved was rebuilt, most often for security updates.
set -eu
write=no
if [ "${1:-}" = --write ]; then
    write=yes
    shift
fi
if [ $# = 0 ]; then
    cd "$(dirname "$0")/.."
    set -- docker-compose.yml Dockerfile
fi
moved=0
for file in "$@"; do
    for image in $(grep -ohE '[a-z0-9./-]+:[A-Za-z0-9._-]+@sha256:[0-9a-f]{64}' "$file" | sort -u); do
        tag=${image%@*}
        found=$(docker buildx imagetools inspect "$tag" --format '{{.Manifest.Digest}}')
        case $found in
        sha256:????????????????????????????????????????????????????????????????) ;;
        *)
            echo "$tag: the registry answered '$found'" >&2
            exit 1
            ;;
        esac
        if [ "$image" = "$tag@$found" ]; then
            echo "$tag is as pinned"
            continue
        fi
        echo "$tag is now $found"
        moved=1
        [ "$write" = no ] || sed -i "s|$image|$tag@$found|" "$file"
    done
done
[ "$write" = yes ] || exit "$moved"
