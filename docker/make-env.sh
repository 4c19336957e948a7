#!/bin/sh
# Write what docker-compose.yml needs: secrets/ with new secrets, one file each, readable by their owner only, and .env
# with that owner, as whom the containers run. Existing secrets are kept; missing ones (of a newer release) are added,
# with the values that an older release had in .env.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "${1:-$here/..}"
umask 077
mkdir -p secrets

hex() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }
# Fernet needs 32 bytes in URL-safe base64.
fernet() { head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n'; }
# earlier NAME: the value in .env, where releases before had secrets.
earlier() { [ ! -e .env ] || sed -n "s/^$1=//p" .env | tail -n 1; }
# either EARLIER NEW
either() { printf '%s' "${1:-$2}"; }
made=""
# secret NAME TEXT: whole or not at all, and never in place of another one.
secret() {
    [ ! -e "secrets/$1" ] || return 0
    printf '%s' "$2" >"secrets/.$1.partial"
    mv "secrets/.$1.partial" "secrets/$1"
    made="$made $1"
}
secret postgres_password "$(either "$(earlier POSTGRES_PASSWORD)" "$(hex 24)")"
password=$(cat secrets/postgres_password)
secret airflow_database "postgresql+psycopg2://airflow:$password@postgres/airflow"
secret pgpass "*:*:*:airflow:$password"
secret airflow_admin_password "$(either "$(earlier AIRFLOW_ADMIN_PASSWORD)" "$(hex 12)")"
secret airflow_fernet_key "$(either "$(earlier AIRFLOW_FERNET_KEY)" "$(fernet)")"
secret airflow_jwt_secret "$(either "$(earlier AIRFLOW_JWT_SECRET)" "$(hex 32)")"
secret airflow_api_secret_key "$(either "$(earlier AIRFLOW_API_SECRET_KEY)" "$(hex 32)")"
secret grafana_password "$(hex 12)"
# Keys of the profile s3; for another server, write its keys into both files' places.
secret s3_auth_key "$(hex 10),$(hex 20)"
secret aws_credentials "$(printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s' \
    "$(cut -d, -f1 secrets/s3_auth_key)" "$(cut -d, -f2 secrets/s3_auth_key)")"

uid=$(id -u) gid=$(id -g)
if [ "$uid" = 0 ]; then
    # The containers never run as root.
    uid=1000 gid=1000
    chown -R 1000:1000 secrets
fi
touch .env
for line in "TICKWALK_UID=$uid" "TICKWALK_GID=$gid"; do
    grep -q "^${line%%=*}=" .env || printf '%s\n' "$line" >>.env
done
if [ -n "$made" ]; then
    echo "wrote $(pwd)/secrets:$made"
    echo "log in as admin with the password in secrets/airflow_admin_password"
else
    echo "every secret exists already; remove a file for a new one (with a new airflow_fernet_key, stored" \
        "connections become unreadable)"
fi
