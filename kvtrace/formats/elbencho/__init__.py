"""elbencho: ops logs."""
