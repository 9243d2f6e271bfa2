# shellcheck shell=bash
# What ci/demo and ci/test share: Debian packages, a Rust that is new enough.
# Sourced, never run. Defines functions and $root, changes nothing by itself.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}

say() { printf '%s\n' "== $*"; }
die() {
    printf '%s\n' "${0##*/}: $*" >&2
    exit 1
}

is_root() { [ "$(id -u)" -eq 0 ]; }

# What the build takes: a C compiler and headers for libbpf, libxdp and aws-lc,
# clang and llc for libxdp, libclang for bindgen.
build_packages=(ca-certificates gcc libc6-dev make m4 pkg-config
    clang llvm libclang-dev libelf-dev zlib1g-dev libpcap-dev)
# What the harness calls. setpriv is in util-linux, which is always there.
harness_packages=(iproute2 iperf3 ethtool)
# Where no Rust is new enough.
rust_packages=(rustc-web cargo-web)

# Whether a Debian package is installed.
installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

index_is_fresh=false

# Installs or upgrades Debian packages.
apt_install() {
    local log
    log=$(mktemp)
    # An index of yesterday names packages that are gone, or older ones.
    if ! { $index_is_fresh || apt-get update -q >"$log" 2>&1; } ||
        ! DEBIAN_FRONTEND=noninteractive \
            apt-get install -qy --no-install-recommends "$@" >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        die "apt-get could not install: $*"
    fi
    index_is_fresh=true
    rm -f "$log"
}

# Installs those of the named Debian packages that are missing.
need_packages() {
    if ! command -v apt-get >/dev/null; then
        say "this is not Debian: the packages $* have to be there under their names here"
        return
    fi
    local missing=() package
    for package in "$@"; do
        installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    is_root || die "missing packages: ${missing[*]}. Install them, or run this by sudo"
    say "installing ${missing[*]}"
    apt_install "${missing[@]}"
}

# Whether the cargo and the rustc in the path run and are as new as Cargo.toml
# asks for.
rust_is_new_enough() {
    local minimum version tool
    minimum=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
    for tool in cargo rustc; do
        version=$("$tool" --version 2>/dev/null | cut -d' ' -f2) || return 1
        [ -n "$version" ] || return 1
        printf '%s\n%s\n' "$minimum" "${version%%-*}" | sort -VC || return 1
    done
}

# Puts a Rust that is new enough into the path: the one that is there, else
# rustup's of this user or of the user behind sudo, else Debian's.
need_rust() {
    rust_is_new_enough && return
    local home homes=("${HOME:-/root}") path=$PATH
    if [ -n "${SUDO_USER-}" ]; then
        homes+=("$(getent passwd "$SUDO_USER" | cut -d: -f6)")
    fi
    for home in "${homes[@]}"; do
        [ -x "$home/.cargo/bin/cargo" ] || continue
        export PATH=$home/.cargo/bin:$path
        # rustup's programs look for their toolchains here.
        [ ! -d "$home/.rustup" ] || export RUSTUP_HOME=$home/.rustup
        rust_is_new_enough && return
    done
    export PATH=$path
    unset RUSTUP_HOME
    command -v apt-get >/dev/null ||
        die "no Rust that is new enough (see rust-version in Cargo.toml): install it by rustup"
    is_root || die "no Rust that is new enough (see rust-version in Cargo.toml): install it, or run this by sudo"
    say "installing Debian's own Rust: ${rust_packages[*]}"
    apt_install "${rust_packages[@]}"
    # Before an older one in the path.
    export PATH=/usr/bin:$path
    hash -r
    rust_is_new_enough ||
        die "Debian's rustc-web is older than rust-version in Cargo.toml; is its security archive among apt's sources?"
}

# Runs cargo in the checkout, wherever we were called from.
in_checkout() {
    (cd "$root" && "$@")
}

# Under sudo, gives what was built back to the owner of the checkout, who could
# not build there any more otherwise.
give_back() {
    if [ -n "${SUDO_UID-}" ] && is_root && [ -d "$target" ]; then
        chown -R "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$target"
    fi
}
