# What a sandbox runs in: git, ripgrep and Python with pip, nothing of ours (the runtime is mounted, read-only).
# Built by `./farhand image`, which passes both arguments and verifies the result; see build.py.
ARG BASE
FROM ${BASE}
ARG PACKAGES
# A base that has the packages already (debootstrap's) needs no network here.
RUN set -eu; \
    if ! dpkg -s ${PACKAGES} >/dev/null 2>&1; then \
        apt-get update; \
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ${PACKAGES}; \
    fi; \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/*
ENV LANG=C.UTF-8
CMD ["/bin/bash"]
