# Random numbers of one step, from the seed and the number of the step alone: a step stays what it is when others are left
# out, and on every machine.
#
#   my $draw = McModel::Draw->new($seed, $step);
#   $draw->int(10)                   # 0 .. 9
#   $draw->one_in(4)                 # true once in four times
#   $draw->of('a', 'b')              # one of them
#   $draw->weighted(a => 5, b => 1)  # a five times as often as b; pairs in their order

package McModel::Draw;

use strict;
use warnings;

sub new
{
	my ($class, $seed, $step) = @_;
	use integer;
	my $self = bless { state => $seed * 1_000_003 + $step }, $class;
	$self->next;
	return $self;
}

# splitmix64
sub next
{
	my ($self) = @_;
	use integer;
	$self->{state} += -7046029254386353131;
	my $z = $self->{state};
	$z = ($z ^ (($z >> 30) & ((1 << 34) - 1))) * -4658895280553007687;
	$z = ($z ^ (($z >> 27) & ((1 << 37) - 1))) * -7723592293110705685;
	return ($z ^ (($z >> 31) & ((1 << 33) - 1))) & 0x7fffffff;
}

sub int { my ($self, $n) = @_; return $self->next % $n }
sub one_in { my ($self, $n) = @_; return $self->int($n) == 0 }
sub of { my ($self, @choices) = @_; return $choices[ $self->int(scalar @choices) ] }

sub weighted
{
	my ($self, @pairs) = @_;
	my $sum = 0;
	$sum += $pairs[ 2 * $_ + 1 ] for 0 .. $#pairs / 2;
	my $left = $self->int($sum);
	while (my ($choice, $weight) = splice @pairs, 0, 2)
	{
		return $choice if ($left -= $weight) < 0;
	}
}

1;
