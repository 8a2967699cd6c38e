"""The one environment that runs every service's migrations, and what their migrations share."""
