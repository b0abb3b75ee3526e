# The image of every service (api, gateway, worker, migrate, Flower): the packages of requirements.lock, our sources,
# git and Python. See docs/compose.md.
#
# BASE        what the image stands on: Debian 12, or anything with apt or with Python 3.11 or later, and git
# BUILD_BASE  what the packages are installed in and which is then thrown away; default: BASE. A build that needs
#             its own authorities or pip.conf gets them here, so that none of it is in the image.
ARG BASE=debian:bookworm-slim
ARG BUILD_BASE=${BASE}

FROM ${BUILD_BASE} AS packages
RUN set -eu; \
    if ! python3 -c 'import ensurepip' 2>/dev/null; then \
        apt-get update; \
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates python3-venv; \
    fi
COPY requirements.lock /
RUN set -eu; \
    python3 -m venv /opt/farhand/venv; \
    /opt/farhand/venv/bin/pip install --no-cache-dir --no-deps --only-binary :all: --require-hashes \
        -r /requirements.lock; \
    /opt/farhand/venv/bin/pip uninstall -y setuptools pip

FROM ${BASE}
RUN set -eu; \
    if ! { python3 --version && git --version && test -s /etc/ssl/certs/ca-certificates.crt; } >/dev/null 2>&1; then \
        apt-get update; \
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates git python3; \
        rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*; \
    fi; \
    useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin farhand; \
    printf '#!/bin/sh\nexec /opt/farhand/venv/bin/python -P -m infra.cli "$@"\n' >/usr/local/bin/farhand; \
    chmod 0755 /usr/local/bin/farhand
COPY --from=packages /opt/farhand/venv /opt/farhand/venv
COPY . /opt/farhand/src/
# Whatever the umask of the clone was, the services' user may read it; what is compiled here is not at every start.
RUN chmod -R a+rX,go-w /opt/farhand/src && python3 -m compileall -q /opt/farhand/src
ENV LANG=C.UTF-8 \
    PATH=/opt/farhand/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/opt/farhand/src
WORKDIR /opt/farhand/src
USER farhand
CMD ["farhand", "--help"]
