# A psql that stays, for thousands of statements: those of PostgreSQL's test library note each of them in the log.
#
#   my $session = McModel::Session->new($node, 'ann');
#   $session->query($sql)        # what it printed; dies on an error
#   $session->try($sql)          # undef instead of an error, which is in ->{error} then
#   $session->begin($sql)        # does not wait; the next call does
#   $session->is_busy
#
# It connects again where the server went away.

package McModel::Session;

use strict;
use warnings;
use IPC::Open2;
use Time::HiRes ();

my $number = 0;
my $lost = "FATAL:  the connection is lost\n";

sub new { my ($class, $node, $user, %options) = @_; return bless { node => $node, user => $user, %options }, $class }

sub connect
{
	my ($self) = @_;
	return if $self->{pid};
	local $ENV{PGAPPNAME} = 'model';
	$self->{pid} = open2($self->{out}, $self->{in}, 'sh', '-c', 'exec psql -XqAt -v ON_ERROR_STOP=0 -d "$0" -U "$1" 2>&1',
		$self->{node}->connstr('postgres'), $self->{user});
	$self->{text} = '';
	delete $self->{mark};
	$self->begin($self->{first});
	$self->finish;
}

sub begin
{
	my ($self, $sql) = @_;
	$self->connect;
	$self->finish if $self->{pid};
	return $self->{text} = $lost unless $self->{pid};
	local $SIG{PIPE} = 'IGNORE';
	$self->{mark} = 'done ' . ++$number;
	my $text = ($sql // '') . "\n;\n\\echo '$self->{mark}'\n";
	my $in = $self->{in};
	print $in $text;
	$in->flush;
}

# Reads what is there, for at most so many seconds, until the statement is done; false if it is not.
sub read
{
	my ($self, $seconds) = @_;
	my $end = Time::HiRes::time() + $seconds;
	return 1 unless $self->{mark};
	while (1)
	{
		return 1 if $self->{text} =~ s/^\Q$self->{mark}\E\n\z//m && delete $self->{mark};
		my $left = $end - Time::HiRes::time();
		return 0 if $left <= 0;
		vec(my $ready = '', fileno $self->{out}, 1) = 1;
		next if select($ready, undef, undef, $left) <= 0 || sysread($self->{out}, $self->{text}, 65536, length $self->{text});
		$self->quit;
		$self->{text} .= $lost;
		return 1;
	}
}

sub is_busy { my ($self) = @_; return $self->{mark} && !$self->read(0.001) }

# Waits for the end of what was begun, and returns what it printed.
sub finish
{
	my ($self) = @_;
	$self->read($McTest::patience) or die "a statement did not end in $McTest::patience s";
	my $text = $self->{text} // '';
	$self->{text} = '';
	chomp $text;
	return $text;
}

sub try
{
	my ($self, $sql) = @_;
	$self->begin($sql);
	my $text = $self->finish;
	$self->{error} = $text =~ /^((?:psql:[^\n]*: )?(?:ERROR|FATAL|PANIC): .*|server closed the connection unexpectedly)/ms ? $1 : undef;
	return $self->{error} ? undef : $text;
}

sub query
{
	my ($self, $sql) = @_;
	my $text = $self->try($sql);
	die "$self->{error}\n$sql" unless defined $text;
	return $text;
}

sub quit
{
	my ($self) = @_;
	return unless $self->{pid};
	local ($?, $SIG{PIPE}) = (0, 'IGNORE');
	close $self->{in};
	close $self->{out};
	waitpid delete $self->{pid}, 0;
	delete $self->{mark};
}

sub DESTROY { $_[0]->quit }

1;
