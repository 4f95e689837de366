"""The Grafana dashboards, built in Python; `make dashboards` writes them to `dashboards/`."""
