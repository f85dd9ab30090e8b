#!/usr/bin/python3
"""Stand-in for the command `odoo` of Odoo 17.0: takes the documented options that the recipe uses, refuses
others, and keeps the documented directories. Each call is a line of <data-dir>/calls."""
import argparse
import http.server
import json
import os
import sys

import psycopg2

ADDONS = ["base"]

arguments = sys.argv[1:]
command = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "server"
if command not in ("server", "shell", "neutralize"):
    sys.exit(f"Unknown command {command!r}")
parser = argparse.ArgumentParser(allow_abbrev=False)
for name in ("--database", "--db_host", "--db_port", "--db_user", "--data-dir"):
    parser.add_argument(name, required=True)
for name in ("--addons-path", "--init", "--update", "--without-demo", "--http-interface", "--http-port",
             "--gevent-port", "--workers", "--limit-memory-soft", "--limit-memory-hard"):
    parser.add_argument(name)
for name in ("--stop-after-init", "--no-http", "--proxy-mode", "--no-database-list"):
    parser.add_argument(name, action="store_true")
options = parser.parse_args(arguments)

for folder in filter(None, (options.addons_path or "").split(",")):
    found = [it for it in os.listdir(folder) if os.path.exists(f"{folder}/{it}/__manifest__.py")]
    if not found:
        sys.exit(f"--addons-path: {folder} does not seem to be a valid addons directory")
    ADDONS.extend(found)

with open(f"{options.data_dir}/calls", "a") as calls:
    print(command, " ".join(arguments), file=calls)

# The password is in PGPASSWORD.
connection = psycopg2.connect(
    dbname=options.database, host=options.db_host, port=options.db_port, user=options.db_user)
connection.autocommit = True
cursor = connection.cursor()


def is_initialized():
    cursor.execute("select to_regclass('ir_module_module')")
    return cursor.fetchone()[0] is not None


if command == "neutralize":
    cursor.execute("update ir_cron set active = false")
    cursor.execute("update ir_mail_server set active = false")
    sys.exit()
if command == "shell":
    class Env:
        """The part of `env` that the recipe uses."""
        cr = connection
        password = None

        def ref(self, name):
            assert name == "base.user_admin", name
            return self

    env = Env()
    exec(sys.stdin.read(), {"env": env})
    cursor.execute("update res_users set password = %s where login = 'admin'", [env.password])
    sys.exit()
for module in filter(None, f"{options.init or ''},{options.update or ''}".split(",")):
    if module == "base" and not is_initialized():
        cursor.execute("""
            create table ir_module_module (name text primary key, updates int not null);
            create table ir_cron (active boolean not null);
            create table ir_mail_server (active boolean not null);
            create table res_users (login text, password text);
            insert into ir_cron values (true);
            insert into ir_mail_server values (true);
            insert into res_users values ('admin', 'admin');
        """)
    if module not in ADDONS and module != "all":
        sys.exit(f"invalid module names, ignored: {module}")
    cursor.execute("insert into ir_module_module values (%s, 0) on conflict (name) do update "
                   "set updates = ir_module_module.updates + 1", [module])
    print(f"odoo.modules.loading: Module {module} loaded")
if not is_initialized():
    sys.exit(f"Database {options.database} not initialized, you can force it with `-i base`")
if options.stop_after_init:
    sys.exit()


class Handler(http.server.BaseHTTPRequestHandler):
    """`/web/health`, and `/state` for tests."""

    def do_GET(self):
        body = {"status": "pass"}
        if self.path == "/state":
            body = {"calls": open(f"{options.data_dir}/calls").read().splitlines()}
            for table in ("ir_module_module", "ir_cron", "ir_mail_server", "res_users"):
                cursor.execute(f"select * from {table} order by 1")
                body[table] = cursor.fetchall()
        elif self.path != "/web/health":
            self.send_error(404)
            return
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


address = (options.http_interface, int(options.http_port))
http.server.ThreadingHTTPServer(address, Handler).serve_forever()
