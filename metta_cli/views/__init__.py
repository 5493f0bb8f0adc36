"""What commands show: tables, lines and live views."""
