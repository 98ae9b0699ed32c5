"""What a run has to show: figures, ranked lists, and one page that holds them all."""
