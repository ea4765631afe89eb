"""The control process: it knows the fleet, keeps the policy's versions, and tells the routers."""
