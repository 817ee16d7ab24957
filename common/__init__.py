"""What both sides share: contracts, wire, public models and data. Shipped to every device."""
