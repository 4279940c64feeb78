# For scripts that get packages from Debian's archive without installing them; sourced, not run. The archive is the one that
# the machine itself uses. Whoever sources this defines `give_up MESSAGE`, which does not return.

# find_archive: sets codename, uri and keyring.
find_archive() {
    command -v apt-get > /dev/null && command -v dpkg-deb > /dev/null || give_up "this is no Debian"
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    [ -n "$codename" ] || give_up "/etc/os-release names no release"
    uri=$(list_archives | head -n 1)
    [ -n "$uri" ] || give_up "no source in /etc/apt has the suite $codename"
    for keyring in /usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do [ ! -e "$keyring" ] || break; done
    [ -e "$keyring" ] || give_up "there is no keyring of Debian's archive"
}

# The archives of this machine's release, from its sources in either of their two forms.
list_archives() {
    cat /etc/apt/sources.list.d/*.sources 2> /dev/null | awk -v suite="$codename" '
        /^URIs:/ { uri = $2 }
        /^Suites:/ { for (i = 2; i <= NF; i++) if ($i == suite && uri != "") { print uri; exit } }'
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2> /dev/null | sed 's/\[[^]]*\]//' |
        awk -v suite="$codename" '$1 == "deb" && $3 == suite { print $2; exit }'
}

# own_lists FOLDER: sets options, for apt-get and apt-cache, so that the machine's lists of packages stay as they are. The
# sources are FOLDER/sources.list, and those that the machine has in parts.
own_lists() {
    mkdir -p "$1/lists/partial" "$1/cache/archives/partial"
    options=(-o "Dir::Etc::sourcelist=$1/sources.list" -o "Dir::State::lists=$1/lists" -o "Dir::Cache=$1/cache"
        -o APT::Sandbox::User=root -o Acquire::Retries=3)
}
