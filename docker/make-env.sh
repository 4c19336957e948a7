#!/bin/sh
# Write .env for docker-compose.yml with new secrets, readable by its owner only. An existing .env is kept.
set -eu
cd "${1:-$(dirname "$0")/..}"
if [ -e .env ]; then
    echo ".env already exists; remove it for new secrets (stored connections become unreadable)" >&2
    exit 1
fi
umask 077
hex() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }
# Fernet needs 32 bytes in URL-safe base64.
fernet() { head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n'; }
cat >.env.partial <<EOF
POSTGRES_PASSWORD=$(hex 24)
AIRFLOW_ADMIN_PASSWORD=$(hex 12)
AIRFLOW_FERNET_KEY=$(fernet)
AIRFLOW_JWT_SECRET=$(hex 32)
AIRFLOW_API_SECRET_KEY=$(hex 32)
EOF
mv .env.partial .env
echo "wrote $(pwd)/.env; log in as admin with AIRFLOW_ADMIN_PASSWORD"
