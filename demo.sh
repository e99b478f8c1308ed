#!/bin/sh
# From nothing to a served prediction on drawn street scenes: ./demo.sh FOLDER, or `make demo`.
set -eu
demo=${1:-demo}
say() { printf '\n== %s\n' "$*"; }

if [ -e "$demo" ]; then
  echo "error: $demo is there already; delete it, or name another folder: make demo DEMO=FOLDER" >&2
  exit 1
fi

say "Drawing 1,200 training and 120 validation pairs"
python -m pipeline.synthesize --output_dir="$demo/pairs" --train=1200 --val=120 --size=128

say "Turning them into TFRecords with Apache Beam"
python -m pipeline.preprocess --input_dir="$demo/pairs" --output_dir="$demo/records"

say "Training PSPNet under MirroredStrategy, and exporting it: a few minutes on two cores"
python -m trainer.task --strategy=mirrored --preset=demo \
  --data_dir="$demo/records" --model_dir="$demo/run"

say "Evaluating the best checkpoint"
python -m trainer.evaluate --data_dir="$demo/records" --model_dir="$demo/run" --split=val

say "Predicting with the SavedModel"
saved_model=$(ls -d "$demo"/run/export/[0-9]* | sort -V | tail -n 1)
python -m trainer.predict --saved_model="$saved_model" --input="$demo/pairs/val" --pairs=left \
  --output_dir="$demo/predictions" --limit=12

say "Done"
cat <<END
the data     $demo/records/report.html
pictures     $demo/predictions/*_overlay.png (photo | prediction over it | legend)
logs         .venv/bin/tensorboard --logdir $demo/run
SavedModel   $saved_model (tf.saved_model.load, or TensorFlow Serving on $demo/run/export)
figures      $demo/run/evaluation-val.json
END
