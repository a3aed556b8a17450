# The model test of audiences in both directions (R82, R85, R93, D10, D12, D14): random steps in the CRM and at Mailchimp, often to the
# same field of the same person, under each policy of conflicts; see McModel/Both.pm.
#
#   MODEL_SEED='1 2 3'      other seeds than these
#   MODEL_STEPS=10000       steps of each (default 240)
#   MODEL_BURST=60          steps between two comparisons (default 40)

use strict;
use warnings;
use McModel::Both;
use Test::More;

my $steps = $ENV{MODEL_STEPS} // 240;
my $burst = $ENV{MODEL_BURST} // 40;

for my $seed (split ' ', $ENV{MODEL_SEED} // '1')
{
	my $model = McModel::Both->new("both$seed", $seed);
	my $rests = 0;
	for (my $step = 1; $step <= $steps; $step += $burst)
	{
		my $last = $step + $burst - 1;
		$last = $steps if $last > $steps;
		$rests = !$rests;
		my $what = "seed $seed: steps $step to $last, while the engine " . ($rests ? 'rests' : 'works');
		if (eval { $model->burst($rests, $step .. $last); 1 }) { pass($what) }
		else { fail($what); diag $@; last }
	}
	$model->{node}->stop('immediate', fail_ok => 1);
}
done_testing();
