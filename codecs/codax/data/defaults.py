"""Every key of `config.data`; configurations start from these."""

# Every key of `config.data`. The second group is passed on to the source.
DEFAULTS = {
  'name': 'photos',  # One of sources.SOURCES.
  'batch_size': 16,  # Of all hosts together.
  'crop': 64,  # Side in pixels; smaller pictures are padded by their edge.
  'flip': True,  # Mirror left-right, with probability 1/2.
  'mix_channels': 0.0,  # Chance that a crop's colour channels change places.
  'gain': 0.0,  # Contrast times e^u and mean plus 64 v, |u| and |v| up to this.
  'scales': (1.0,),  # Also train on box-averaged copies: (1.0, 0.5) adds half size.
  'area_power': 0.5,  # P(picture) ~ area^this where resident; 0: all alike.
  'max_resident_mb': 512.0,  # Larger sets are read on the host; 0: always.
  'eval_crops': 16384,  # At most so many crops of the test split; 0: all.
}
SOURCE_DEFAULTS = {
  'pictures': (),  # photos
  'path': '',  # folder
  'test_fraction': 0.1,  # folder
  'dataset': '',  # tfds
  'data_dir': '',  # tfds
  'size': 128,  # dead_leaves
  'leaves_seed': 0,  # dead_leaves
}
