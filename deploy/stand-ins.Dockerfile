# Stand-ins for the base images of deploy/Dockerfile and the third-party images of deploy/compose.yaml, for
# machines that reach package registries but no image registry. `cargo xtask containers` builds those whose
# tags are missing; nobody else needs them.
#
# `debian:bookworm-slim` is imported from a debootstrap first, with the authorities that this machine trusts.
FROM debian:bookworm-slim AS authorities
RUN cp /etc/ssl/certs/ca-certificates.crt /authorities.crt

# `rust`: the context is the directory of a Rust toolchain (`rustc --print sysroot`).
FROM debian:bookworm-slim AS rust
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends gcc g++ git libc6-dev make pkg-config \
    && rm -rf /var/lib/apt/lists/*
COPY --from=authorities /authorities.crt /etc/ssl/certs/ca-certificates.crt
COPY bin /usr/local/bin
COPY lib /usr/local/lib
COPY libexec /usr/local/libexec
ENV RUST_VERSION=stand-in CARGO_HOME=/usr/local/cargo

# `postgres`: creates the user and the database of POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB, and runs
# /docker-entrypoint-initdb.d, on the first start.
FROM debian:bookworm-slim AS postgres
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends postgresql-15 \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o postgres -g postgres /var/lib/postgresql/data /run/postgresql
ENV PATH=/usr/lib/postgresql/15/bin:$PATH PGDATA=/var/lib/postgresql/data
RUN printf '%s\n' '#!/bin/sh' 'set -e' \
    'if [ ! -s "$PGDATA/PG_VERSION" ]; then' \
    '    umask 077' \
    '    echo "$POSTGRES_PASSWORD" | initdb --username "$POSTGRES_USER" --pwfile /dev/stdin \' \
    '        --auth-local trust --auth-host scram-sha-256 --encoding UTF8 --locale C.UTF-8' \
    '    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"' \
    '    pg_ctl --wait start --options "-c listen_addresses="' \
    '    psql --username "$POSTGRES_USER" --dbname postgres --command "create database \"$POSTGRES_DB\""' \
    '    for file in /docker-entrypoint-initdb.d/*.sql; do' \
    '        psql --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" --set ON_ERROR_STOP=1 --file "$file"' \
    '    done' \
    '    pg_ctl --wait stop' \
    'fi' \
    'exec "$@"' > /usr/local/bin/docker-entrypoint.sh \
    && chmod 0755 /usr/local/bin/docker-entrypoint.sh
USER postgres
VOLUME /var/lib/postgresql/data
STOPSIGNAL SIGINT
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres", "-c", "listen_addresses=*"]

# `nats` from the Go module proxy and `caddy` from PyPI: the context has the programs, linked statically.
FROM scratch AS nats
COPY nats-server /
EXPOSE 4222
ENTRYPOINT ["/nats-server"]

FROM scratch AS caddy
COPY caddy /usr/bin/
COPY --from=authorities /authorities.crt /etc/ssl/certs/ca-certificates.crt
ENV PATH=/usr/bin XDG_CONFIG_HOME=/config XDG_DATA_HOME=/data
CMD ["caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]

# `maildev`: the context is a directory in which npm has installed it.
FROM debian:bookworm-slim AS maildev
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends nodejs \
    && rm -rf /var/lib/apt/lists/*
COPY node_modules /usr/local/lib/node_modules
RUN ln -s ../lib/node_modules/maildev/bin/maildev /usr/local/bin/maildev
USER nobody
EXPOSE 1080 1025
CMD ["maildev"]
