# The statements of a document of ours, run as they stand. The first line of a block says who runs it: "-- a superuser",
# "-- an admin", "-- a marketer", "-- a reader" or "-- the CRM"; without one it is the same as before. A block that follows
# one of SQL at once, without a language, is what psql prints for it: notices, then results.
#
#   my $guide = McGuide->new('docs/examples.md', chapter => 'One', node => $node, sim => $sim, key => 'demo-us1');
#   $guide->play('The data');      # the blocks below that heading, up to the next heading; without a name the whole document
#   $guide->later(600);            # our clock and Mailchimp's go on by so many seconds
#   $guide->done;                  # every block of the chapter was played
#
# Only the key is put in, and the way to the simulator.

package McGuide;

use strict;
use warnings;
use IPC::Run ();
use McTest;
use PostgreSQL::Test::Utils qw(slurp_file);
use Test::More;

our %role = ('a superuser' => 'postgres', 'an admin' => 'ann', 'a marketer' => 'mia', 'a reader' => 'ron', 'the CRM' => 'postgres');

# What stands for a key.
our $key = qr/'[0-9a-f]{32}-us6'/;

sub new
{
	my ($class, $path, %options) = @_;
	my $self = bless { path => $path, role => 'postgres', later => 0, blocks => [], %options }, $class;

	$self->{node}->role($_) for qw(ann mia ron);
	$self->_read(slurp_file("$McTest::root/$path"));
	return $self;
}

sub _read
{
	my ($self, $text) = @_;
	my ($line, $chapter, $heading, $in, $block, $after) = (0, '', '');

	for (split /\n/, $text)
	{
		$line++;
		if (defined $in && $_ eq '```')
		{
			if ($in->{language} eq 'sql')
			{
				$block = { heading => $heading, line => $line, sql => $in->{text} };
				push @{ $self->{blocks} }, $block if !defined $self->{chapter} || $self->{chapter} eq $chapter;
			}
			$block->{output} = $in->{text} if $in->{language} eq '' && $after;
			$after = $in->{language} eq 'sql';
			undef $in;
		}
		elsif (defined $in) { $in->{text} .= "$_\n" }
		elsif (/^```(\w*)$/) { $in = { language => $1, text => '' } }
		else
		{
			$chapter = $1 if /^## (.*)/;
			$heading = $1 if /^#+ (.*)/;
			$after = 0;
		}
	}
}

# All that psql says of it: notices, then results, then the error that ended it.
sub _psql
{
	my ($self, $sql) = @_;
	my ($out, $said) = ('', '');
	my $ran = IPC::Run::run([ 'psql', '-Xq', '-P', 'footer=off', '-v', 'ON_ERROR_STOP=1', '-d', $self->{node}->connstr('postgres'),
		'-U', $self->{role} ], '<', \$sql, '>', \$out, '2>', \$said);

	$said =~ s/^psql:<stdin>:\d+: //mg;
	return ($ran ? '' : $said, "$said$out" =~ s/ +$//mgr =~ s/\n+\z/\n/r);
}

# Who may not give an endpoint connects by a server that a superuser made, or made complete.
sub _connect
{
	my ($self, $sql) = @_;
	return $sql unless $sql =~ s/$key/'$self->{key}'/ && $sql =~ /mc_connect\('(\w+)'/;
	my ($server, $endpoint) = ($1, "endpoint '" . $self->{sim}->url . "'");
	if ($self->{node}->query("SELECT count(*) FROM pg_foreign_server WHERE srvname = '$server'"))
	{
		$self->{node}->query("ALTER SERVER $server OPTIONS (ADD $endpoint)");
		return $sql;
	}
	$self->{node}->query("CREATE SERVER $server FOREIGN DATA WRAPPER mailchimp_sync OPTIONS ($endpoint);
		ALTER SERVER $server OWNER TO ann");
	return $sql;
}

sub play
{
	my ($self, $heading) = @_;
	my @blocks = grep { !defined $heading || $_->{heading} eq $heading } @{ $self->{blocks} };

	BAIL_OUT("$self->{path} has no statements below \"$heading\"") unless @blocks;
	for my $block (@blocks)
	{
		my ($error, $output);
		$self->{role} = $role{$1} // BAIL_OUT("$self->{path}, line $block->{line}: who is $1?") if $block->{sql} =~ /^-- (.*)\n/;
		($error, $output) = $self->_psql($self->_connect($block->{sql}));
		is($error, '', "$block->{heading}: the statements that end at line $block->{line} of $self->{path}");
		is($output, $block->{output}, "$block->{heading}: what they print") if defined $block->{output};
		$block->{played}++;
	}
	return scalar @blocks;
}

sub later
{
	my ($self, $seconds) = @_;
	$self->{later} += $seconds;
	$self->{sim}->post('/_sim/clock', { advance => $seconds });
	$self->{node}->clock_ahead($self->{later});
}

sub done
{
	my ($self) = @_;
	is(join(', ', map { $_->{line} } grep { !$_->{played} } @{ $self->{blocks} }), '', "$self->{path}: every block was played");
}

1;
