"""The frame that every other package stands on: no torch, no pretrained model, no data format."""
