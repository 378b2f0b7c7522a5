"""How gunicorn_service.py runs gunicorn: quietly, and without a trace in the home directory."""

loglevel = "warning"
# Newer versions open a control socket under ~/.gunicorn; older ones skip what they don't know.
control_socket_disable = True
