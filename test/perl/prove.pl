# Runs TAP files: prove.pl JOBS FILE...
#
# prove's own summary does not say how many assertions failed. This one ends with "N passed, N failed": assertions,
# and one failure for each file that died, ran none or not all of its assertions without one of them failing. Of a
# file with failures the end of its logs is shown.

use strict;
use warnings;
use File::Basename qw(basename);
use TAP::Harness;

my ($jobs, @files) = @ARGV;
my $harness = TAP::Harness->new({ jobs => $jobs, timer => 1, failures => 1 });

# When the suite's time is up: what the tests that are not done have got to say.
my %done;
$harness->callback(after_test => sub { $done{ $_[0][0] } = 1 });
$SIG{TERM} = sub { show_log($_) for grep { !$done{$_} && -e log_of($_) } @files; exit 1 };

my $result = $harness->runtests(@files);
my $failed = 0;

for my $file ($result->descriptions)
{
	my ($parser) = $result->parsers($file);
	my $bad = scalar $parser->failed;
	$bad ||= 1 if $parser->exit || $parser->wait || $parser->parse_errors;
	$failed += $bad;
	show_log($file) if $bad;
}
# What is skipped or still to do counts neither way.
my $passed = $result->passed - $result->skipped - $result->todo;
printf "%d passed, %d failed\n", $passed, $failed;
exit($failed ? 1 : 0);

sub log_of { return "$ENV{TESTLOGDIR}/regress_log_" . basename($_[0], '.pl') }

sub show_log
{
	my $name = basename($_[0], '.pl');
	for my $log (log_of($_[0]), glob "$ENV{TESTLOGDIR}/${name}_*.log")
	{
		open my $in, '<', $log or next;
		my @lines = <$in>;
		splice @lines, 0, -50 if @lines > 50;
		print "\nend of $log:\n", @lines;
	}
	print "\n";
}
