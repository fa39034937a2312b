"""Train the progressive network on synthetically deformed chest CT (Eppenhof et al., IEEE TMI 2020)."""
